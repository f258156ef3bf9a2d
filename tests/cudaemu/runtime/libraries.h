// For replacements of other CUDA libraries, which do their work on the host: how they put it into
// streams, and how it reaches device memory. Found in this library at run time,
// so link to it.
#pragma once

#include <driver_types.h>
#include <stddef.h>

extern "C" {

// cudaLaunchHostFunc with data that the work owns: release(data) is called once, when the work has
// been done, or when the graph that it was captured for, and may do it many times, is gone. On an
// error it has been called.
cudaError_t cudaemu_launch_host_work(cudaStream_t stream, void (*work)(void*), void* data,
                                     void (*release)(void*));

enum cudaemu_access { cudaemu_read = 1, cudaemu_write = 2 };

// Where a host function reaches `bytes` at a device address. In checked mode the access belongs to
// the running operation, as one of a kernel does. Null, with a finding that begins with `what`,
// when the bytes are not of one allocation. `access`: cudaemu_read, cudaemu_write or both together.
void* cudaemu_reach(const void* address, size_t bytes, int access, const char* what);

// Whether the address is of the device.
int cudaemu_is_device(const void* address);

// What the next cudaLaunchHostFunc or cudaemu_launch_host_work of this thread enqueues, for the
// timeline. `name` without quotes; `bytes` read and written, or sent for a transfer; flops:
// multiplications and additions; 0: not known.
enum cudaemu_work { cudaemu_compute, cudaemu_transfer };
void cudaemu_describe(int work, const char* name, double bytes, double flops);

// Called by a host function that waits for something outside of this process: it has not finished,
// and is called again later. Until then a query of its stream says not ready.
void cudaemu_run_again();

// Runs what can be run of the stream, as time would on a GPU; the program learns nothing of it.
void cudaemu_advance(cudaStream_t stream);

// Adds a finding.
void cudaemu_report(const char* finding);

}  // extern "C"
