// For replacements of other CUDA libraries, which do their work on the host with
// cudaLaunchHostFunc: how a host function reaches device memory. Found in this library at run time,
// so link to it.
#pragma once

#include <driver_types.h>
#include <stddef.h>

extern "C" {

enum cudaemu_access { cudaemu_read = 1, cudaemu_write = 2 };

// Where a host function reaches `bytes` at a device address. In checked mode the access belongs to
// the running operation, as one of a kernel does. Null, with a finding that begins with `what`,
// when the bytes are not of one allocation. `access`: cudaemu_read, cudaemu_write or both together.
void* cudaemu_reach(const void* address, size_t bytes, int access, const char* what);

// Whether the address is of the device.
int cudaemu_is_device(const void* address);

// Called by a host function that waits for something outside of this process: it has not finished,
// and is called again later. Until then a query of its stream says not ready.
void cudaemu_run_again();

// Runs what can be run of the stream, as time would on a GPU; the program learns nothing of it.
void cudaemu_advance(cudaStream_t stream);

// Adds a finding.
void cudaemu_report(const char* finding);

}  // extern "C"
