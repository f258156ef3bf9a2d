// What kernels and launchers share: element types, vectors of them, sums over warps and blocks.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/cuda_backend.h"
#include "cuda/ptx.cuh"

namespace fomoe {

using nv_bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <class Int>
__host__ __device__ constexpr Int ceil_div(Int a, Int b) {
    return (a + b - 1) / b;
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(nv_bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x) {
    if constexpr (sizeof(T) == 2)
        return __float2bfloat16_rn(x);
    else
        return x;
}

// n neighbours that are read or written at once.
template <class T, int n>
struct alignas(sizeof(T) * n) Vec {
    T at[n];
};

// The data of a tensor as a kernel's pointer.
template <class T>
T* data_of(const Tensor& x) {
    return static_cast<T*>(x.data);
}
template <class T>
const T* data_of(const ConstTensor& x) {
    return static_cast<const T*>(x.data);
}

// Lets a kernel have this much dynamic shared memory, which without it is 48 KiB at most.
template <class... Argument>
void allow_shared(void (*kernel)(Argument...), int bytes) {
    if (bytes > 48 * 1024)
        check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                   "cudaFuncSetAttribute");
}

// Calls body.template operator()<T>() with the element type of activations: float or nv_bf16.
template <class Body>
void with_compute_type(DType dtype, Body body) {
    if (dtype == DType::bf16)
        body.template operator()<nv_bf16>();
    else
        body.template operator()<float>();
}

// Every lane gets the sum, in the same order on every run.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
        x += __shfl_xor_sync(kAllLanes, x, distance);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int distance = kWarp / 2; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, distance));
    return x;
}

// The sum over a block of `threads` threads, for every thread. Call it from all of them; it may be
// called again at once.
template <int threads, class T>
__device__ __forceinline__ T block_sum(T x) {
    __shared__ T part[threads / kWarp];
    x = warp_sum(x);
    if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = x;
    __syncthreads();
    T sum = part[0];
    for (int i = 1; i < threads / kWarp; ++i) sum += part[i];
    __syncthreads();
    return sum;
}

}  // namespace fomoe
