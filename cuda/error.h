// CUDA errors as Error(internal).
#pragma once

#include <cuda_runtime_api.h>

#include "base/error.h"

namespace fomoe {

inline void check_cuda(cudaError_t status, const char* call) {
    if (status != cudaSuccess)
        throw Error(Exit::internal, concat("CUDA: ", call, ": ", cudaGetErrorString(status)));
}
// After a launch: a configuration that the device refuses.
inline void check_launch(const char* kernel) { check_cuda(cudaGetLastError(), kernel); }

}  // namespace fomoe
