// AdamW, casts and the sum of squares, at the speed of memory.
#include <algorithm>
#include <cmath>

#include "cuda/cast.h"
#include "cuda/elementwise.cuh"

namespace fomoe {
namespace {

template <class To, class From>
struct CastBody {
    To* y;          // (P)
    const From* x;  // (P)

    template <int width>
    __device__ void at(int64_t i) const {
        const auto in = load<width>(x + i);
        Vec<To, width> out;
        for (int j = 0; j < width; ++j) out.at[j] = from_float<To>(to_float(in.at[j]));
        store<width>(y + i, out);
    }
};

template <class To, class From>
void launch_cast(const Stream& s, To* y, const From* x, int64_t n) {
    launch_elementwise(s, "cast", n, vectors_fit(y, x), CastBody<To, From>{y, x});
}

struct AdamRates {
    float beta1, beta2;
    float keep1, keep2;  // 1 - beta
    float rate;          // lr / (1 - beta1^step)
    float correction2;   // 1 / (1 - beta2^step)
    float eps;
    float decay;  // lr * weight_decay
};

template <bool with_copy>
struct AdamBody {
    float* weight;            // (P)
    float* m;                 // (P)
    float* v;                 // (P)
    nv_bf16* copy;            // (P), if with_copy
    const float* grad;        // (P)
    const float* grad_scale;  // (1)
    AdamRates rates;

    template <int width>
    __device__ void at(int64_t i) const {
        const float scale = *grad_scale;
        if (!(scale >= 0)) return;
        const auto g_in = load<width>(grad + i);
        auto w = load<width>(weight + i), mean = load<width>(m + i), square = load<width>(v + i);
        Vec<nv_bf16, width> rounded;
        for (int j = 0; j < width; ++j) {
            const float g = g_in.at[j] * scale;
            mean.at[j] = rates.beta1 * mean.at[j] + rates.keep1 * g;
            square.at[j] = rates.beta2 * square.at[j] + rates.keep2 * (g * g);
            w.at[j] -=
                rates.rate * mean.at[j] / (sqrtf(square.at[j] * rates.correction2) + rates.eps) +
                rates.decay * w.at[j];
            rounded.at[j] = __float2bfloat16_rn(w.at[j]);
        }
        store<width>(m + i, mean);
        store<width>(v + i, square);
        store<width>(weight + i, w);
        if constexpr (with_copy) store<width>(copy + i, rounded);
    }
};

constexpr int kSumThreads = 256;
// What the order of additions hangs on, whichever device it is.
constexpr int kSumPerThread = 32;
constexpr int kMostSumBlocks = 2048;

// partial[b] = the squares of what block b sees.
template <int width>
__global__ void sum_squares(double* partial, const float* x, int64_t n) {
    const int64_t first = int64_t{blockIdx.x} * kSumThreads + threadIdx.x;
    const int64_t stride = int64_t{gridDim.x} * kSumThreads;
    const int64_t vectors = n / width;
    double sum = 0;
    for (int64_t i = first; i < vectors; i += stride) {
        const auto in = load<width>(x + i * width);
        for (int j = 0; j < width; ++j) sum += double{in.at[j]} * in.at[j];
    }
    if (first < n % width) {
        const double tail = x[vectors * width + first];
        sum += tail * tail;
    }
    sum = block_sum<kSumThreads>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block: total += the sum of the parts.
__global__ void add_parts(double* total, const double* partial, int parts) {
    double sum = 0;
    for (int i = threadIdx.x; i < parts; i += kSumThreads) sum += partial[i];
    sum = block_sum<kSumThreads>(sum);
    if (threadIdx.x == 0) *total += sum;
}

}  // namespace

void launch_cast(const Stream& s, const Tensor& to, const ConstTensor& from) {
    if (to.dtype == DType::bf16)
        launch_cast(s, data_of<nv_bf16>(to), data_of<float>(from), from.count());
    else
        launch_cast(s, data_of<float>(to), data_of<nv_bf16>(from), from.count());
}

void CudaBackend::execute(const Cast& op, Queue queue) { launch_cast(begin(queue), op.y, op.x); }

void CudaBackend::execute(const AdamW& op, Queue queue) {
    const Stream s = begin(queue);
    const double beta1 = op.beta1, beta2 = op.beta2;
    const AdamRates rates{
        .beta1 = op.beta1,
        .beta2 = op.beta2,
        .keep1 = static_cast<float>(1.0 - beta1),
        .keep2 = static_cast<float>(1.0 - beta2),
        .rate = static_cast<float>(op.lr / (1.0 - std::pow(beta1, op.step))),
        .correction2 = static_cast<float>(1.0 / (1.0 - std::pow(beta2, op.step))),
        .eps = op.eps,
        .decay = op.lr * op.weight_decay,
    };
    const auto launch = [&]<bool with_copy>() {
        const AdamBody<with_copy> body{.weight = data_of<float>(op.weight),
                                       .m = data_of<float>(op.m),
                                       .v = data_of<float>(op.v),
                                       .copy = data_of<nv_bf16>(op.copy),
                                       .grad = data_of<float>(op.grad),
                                       .grad_scale = data_of<float>(op.grad_scale),
                                       .rates = rates};
        launch_elementwise(s, "adamw", op.weight.count(),
                           vectors_fit(body.weight, body.m, body.v, body.copy, body.grad), body);
    };
    if (op.copy)
        launch.template operator()<true>();
    else
        launch.template operator()<false>();
}

void CudaBackend::execute(const SumSquares& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t n = op.x.count();
    if (n == 0) return;
    const int blocks = static_cast<int>(
        std::min<int64_t>(ceil_div<int64_t>(n, kSumThreads * kSumPerThread), kMostSumBlocks));
    double* partial = s.scratch.take<double>(blocks);
    const float* x = data_of<float>(op.x);
    if (vectors_fit(x))
        sum_squares<kElementwise><<<blocks, kSumThreads, 0, s.stream>>>(partial, x, n);
    else
        sum_squares<1><<<blocks, kSumThreads, 0, s.stream>>>(partial, x, n);
    check_launch("sum_squares");
    add_parts<<<1, kSumThreads, 0, s.stream>>>(data_of<double>(op.sum), partial, blocks);
    check_launch("add_parts");
}

}  // namespace fomoe
