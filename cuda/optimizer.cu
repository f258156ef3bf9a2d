// AdamW, casts and the sum of squares, at the speed of memory.
#include <algorithm>
#include <cmath>

#include "cuda/device.cuh"

namespace fomoe {
namespace {

constexpr int kThreads = 256;

template <class To, class From>
__global__ void cast(To* y, const From* x, int64_t n) {
    const int64_t stride = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += stride)
        y[i] = from_float<To>(to_float(x[i]));
}

}  // namespace

void CudaBackend::execute(const Cast& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t n = op.x.count();
    const int blocks =
        static_cast<int>(std::min<int64_t>(ceil_div<int64_t>(n, kThreads), 8 * s.multiprocessors));
    if (n == 0) return;
    if (op.y.dtype == DType::bf16)
        cast<<<blocks, kThreads, 0, s.stream>>>(data_of<nv_bf16>(op.y), data_of<float>(op.x), n);
    else
        cast<<<blocks, kThreads, 0, s.stream>>>(data_of<float>(op.y), data_of<nv_bf16>(op.x), n);
    check_launch("cast");
}

}  // namespace fomoe
