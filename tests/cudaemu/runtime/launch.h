// Launches of kernels, checked as strictly as the rules allow.
#pragma once

#include <driver_types.h>
#include <vector_types.h>

#include <cstddef>

namespace cudaemu {

struct LaunchRequest {
    const void* function = nullptr;  // of the host, or a handle
    dim3 grid, block;
    size_t dynamic_shared = 0;  // bytes
    void** arguments = nullptr;
    cudaStream_t stream = nullptr;
};
// Refuses what a device would not launch.
void launch(const LaunchRequest& request);

void set_function_attribute(const void* function, cudaFuncAttribute attribute, int value);
cudaFuncAttributes function_attributes(const void* function);
// Blocks of a multiprocessor by threads and shared memory alone: PTX does not know how many
// registers the kernel will have.
int blocks_per_multiprocessor(const void* function, int threads, size_t dynamic_shared);

}  // namespace cudaemu
