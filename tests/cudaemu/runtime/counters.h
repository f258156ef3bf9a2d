// For tests of the discipline of a step: what a program has asked of the runtime. Found with
// dlsym(RTLD_DEFAULT, "cudaemu_take_counts"), so that a test binary runs on the real runtime too.
#pragma once

#include <stdint.h>

extern "C" {

struct cudaemu_counts {
    uint64_t allocations;         // of device memory: cudaMalloc
    uint64_t frees;               // cudaFree
    uint64_t pinned_allocations;  // of host memory: cudaMallocHost, cudaHostAlloc, cudaHostRegister
    uint64_t pinned_frees;        // cudaFreeHost, cudaHostUnregister
    // Calls that wait for the device: cudaStreamSynchronize, cudaEventSynchronize,
    // cudaDeviceSynchronize, cudaMemcpy to or from the host, and what frees memory.
    uint64_t host_waits;
    uint64_t launches;          // of kernels by calls, also by those that are captured
    uint64_t copies_to_device;  // calls, blocking or not
    uint64_t copies_to_host;
    uint64_t copies_on_device;
    uint64_t memsets;
    uint64_t host_functions;  // cudaLaunchHostFunc; a matmul of the replacement cuBLAS is one
    uint64_t graph_launches;  // cudaGraphLaunch; what the graphs then do is not counted
};

// Counts since the last call, over all threads. Calls are counted when they are made, not when
// their work runs.
struct cudaemu_counts cudaemu_take_counts();

// Writes the timeline to this file from now on, as CUDAEMU_TIMELINE does; null: to none.
void cudaemu_set_timeline(const char* file);

}  // extern "C"
