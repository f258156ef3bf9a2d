// What the pretended device says about itself.
#pragma once

#include <driver_types.h>

#include <cstddef>

namespace cudaemu {

constexpr int kRuntimeVersion = 13000;
constexpr int kMultiprocessors = 8;
constexpr size_t kSharedWithoutOptIn = size_t{48} << 10;  // bytes a block

// Bytes of shared memory that a block may have after cudaFuncSetAttribute, and that a
// multiprocessor has; CUDA C++ Programming Guide, "Technical Specifications per Compute
// Capability".
size_t shared_opt_in();
size_t shared_per_multiprocessor();
int threads_per_multiprocessor();

cudaDeviceProp device_properties(int device);
int device_attribute(cudaDeviceAttr attribute, int device);

// Refuses a device that is not there.
void check_device(int device);

}  // namespace cudaemu
