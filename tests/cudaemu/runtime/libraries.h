// For replacements of other CUDA libraries, which do their work on the host with
// cudaLaunchHostFunc: how a host function reaches device memory. Found in this library at run time,
// so link to it.
#pragma once

#include <stddef.h>

extern "C" {

enum cudaemu_access { cudaemu_read = 1, cudaemu_write = 2 };

// Where a host function reaches `bytes` at a device address. In checked mode the access belongs to
// the running operation, as one of a kernel does. Null, with a finding that begins with `what`,
// when the bytes are not of one allocation. `access`: cudaemu_read, cudaemu_write or both together.
void* cudaemu_reach(const void* address, size_t bytes, int access, const char* what);

// Whether the address is of the device.
int cudaemu_is_device(const void* address);

// What the next cudaLaunchHostFunc of this thread enqueues, for the timeline. `name` without
// quotes; `bytes` read and written, or sent for a transfer; flops: multiplications and additions;
// 0: not known.
enum cudaemu_work { cudaemu_compute, cudaemu_transfer };
void cudaemu_describe(int work, const char* name, double bytes, double flops);

// Adds a finding.
void cudaemu_report(const char* finding);

}  // extern "C"
