// Kernels that treat every element of flat arrays alike, four at a time where addresses allow it.
#pragma once

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

// A thread for each vector, and behind them one for each element that fills none.
template <int width, class Body>
__global__ void elementwise(int64_t n, Body body) {
    const int64_t i = int64_t{blockIdx.x} * kElementwiseThreads + threadIdx.x;
    const int64_t vectors = n / width;
    if (i < vectors)
        body.template at<width>(i * width);
    else if (i < vectors + n % width)
        body.template at<1>(vectors * width + i - vectors);
}

// Calls body.at<width>(i) on the device for the elements from i to i + width, each of the n once.
template <class Body>
void launch_elementwise(const Stream& s, const char* name, int64_t n, bool vectors,
                        const Body& body) {
    if (n == 0) return;
    const auto blocks = [n](int width) {
        return static_cast<unsigned>(ceil_div<int64_t>(n / width + n % width, kElementwiseThreads));
    };
    if (vectors)
        elementwise<kElementwise>
            <<<blocks(kElementwise), kElementwiseThreads, 0, s.stream>>>(n, body);
    else
        elementwise<1><<<blocks(1), kElementwiseThreads, 0, s.stream>>>(n, body);
    check_launch(name);
}

}  // namespace fomoe
