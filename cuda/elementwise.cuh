// Kernels that treat every element of flat arrays alike, four at a time where addresses allow it.
#pragma once

#include <algorithm>

#include "cuda/device.cuh"

namespace fomoe {

constexpr int kElementwise = 4;  // elements that a thread reads at once

template <int width, class T>
__device__ __forceinline__ Vec<T, width> load(const T* from) {
    return *reinterpret_cast<const Vec<T, width>*>(from);
}
template <int width, class T>
__device__ __forceinline__ void store(T* to, const Vec<T, width>& x) {
    *reinterpret_cast<Vec<T, width>*>(to) = x;
}

// Whether vectors of kElementwise can be read there.
template <class... T>
bool vectors_fit(const T*... data) {
    return ((reinterpret_cast<uintptr_t>(data) % alignof(Vec<T, kElementwise>) == 0) && ...);
}

constexpr int kElementwiseThreads = 256;

template <int width, class Body>
__global__ void elementwise(int64_t n, Body body) {
    const int64_t first = int64_t{blockIdx.x} * kElementwiseThreads + threadIdx.x;
    const int64_t stride = int64_t{gridDim.x} * kElementwiseThreads;
    const int64_t vectors = n / width;
    for (int64_t i = first; i < vectors; i += stride) body.template at<width>(i * width);
    if (first < n % width) body.template at<1>(vectors * width + first);
}

// Calls body.at<width>(i) on the device for the elements from i to i + width, each of the n once.
template <class Body>
void launch_elementwise(const Stream& s, const char* name, int64_t n, bool vectors,
                        const Body& body) {
    if (n == 0) return;
    const int width = vectors ? kElementwise : 1;
    const int blocks = static_cast<int>(std::min<int64_t>(
        ceil_div<int64_t>(n, int64_t{width} * kElementwiseThreads), 8 * s.multiprocessors));
    if (vectors)
        elementwise<kElementwise><<<blocks, kElementwiseThreads, 0, s.stream>>>(n, body);
    else
        elementwise<1><<<blocks, kElementwiseThreads, 0, s.stream>>>(n, body);
    check_launch(name);
}

}  // namespace fomoe
