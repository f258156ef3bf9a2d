// RMSNorm: a warp takes a row, or a block where rows are long, and keeps it in registers.
#include <algorithm>

#include "cuda/rows.cuh"
#include "ops/rms_norm.h"

namespace fomoe {
namespace {

constexpr int kThreads = 256;
constexpr int kKept = 4;  // vectors of a row that a thread keeps; what lies behind is read again

// Whether a warp keeps whole rows.
template <int width>
bool fits_warp(int64_t D) {
    return D <= int64_t{kWarp} * kKept * width;
}

template <int row_threads>
__device__ __forceinline__ float row_sum(float x) {
    if constexpr (row_threads == kWarp)
        return warp_sum(x);
    else
        return block_sum<row_threads>(x);
}

// As store(), but by assignment, which the compiler keeps whole here; store() would cost registers
// that the kernels do not have.
template <int n, class T>
__device__ __forceinline__ void assign(T* to, const float (&x)[n]) {
    constexpr int piece = n * sizeof(T) > 16 ? 16 / sizeof(T) : n;
#pragma unroll
    for (int i = 0; i < n; i += piece) {
        Vec<T, piece> v;
#pragma unroll
        for (int j = 0; j < piece; ++j) v.at[j] = from_float<T>(x[i + j]);
        *reinterpret_cast<Vec<T, piece>*>(to + i) = v;
    }
}

template <class T>
struct Norm {
    T* y;                 // (N, D)
    T* sum;               // (N, D) or null
    float* rstd;          // (N)
    const T* x;           // (N, D)
    const T* residual;    // (N, D) or null
    const float* weight;  // (D)
    int64_t N, D;
    float eps;
};

// y follows from the sum as it is stored, which is what the backward pass will see.
template <class T, int width, int row_threads>
__global__ void __launch_bounds__(kThreads) rms_norm(const Norm<T> a) {
    using Piece = Vec<T, width>;
    constexpr int kRows = kThreads / row_threads, kStep = row_threads * width;
    const int64_t n = int64_t{blockIdx.x} * kRows + threadIdx.x / row_threads;
    if (n >= a.N) return;
    const int64_t first = threadIdx.x % row_threads * width, row = n * a.D;
    float squares = 0;
    const auto take = [&](int64_t d) {
        Piece piece = *reinterpret_cast<const Piece*>(a.x + row + d);
        if (a.residual) {
            const Piece other = *reinterpret_cast<const Piece*>(a.residual + row + d);
#pragma unroll
            for (int j = 0; j < width; ++j)
                piece.at[j] = from_float<T>(to_float(piece.at[j]) + to_float(other.at[j]));
            *reinterpret_cast<Piece*>(a.sum + row + d) = piece;
        }
#pragma unroll
        for (int j = 0; j < width; ++j) squares += to_float(piece.at[j]) * to_float(piece.at[j]);
        return piece;
    };
    Piece kept[kKept];
#pragma unroll
    for (int i = 0; i < kKept; ++i)
        if (first + i * kStep < a.D) kept[i] = take(first + i * kStep);
    for (int64_t d = first + kKept * kStep; d < a.D; d += kStep) take(d);

    const float rstd = 1.0f / sqrtf(row_sum<row_threads>(squares) / a.D + a.eps);
    if (first == 0) a.rstd[n] = rstd;
    const auto give = [&](int64_t d, const Piece& piece) {
        float y[width];
        load(y, a.weight + d);
#pragma unroll
        for (int j = 0; j < width; ++j) y[j] *= to_float(piece.at[j]) * rstd;
        assign(a.y + row + d, y);
    };
#pragma unroll
    for (int i = 0; i < kKept; ++i)
        if (first + i * kStep < a.D) give(first + i * kStep, kept[i]);
    const T* summed = (a.residual ? a.sum : a.x) + row;
    for (int64_t d = first + kKept * kStep; d < a.D; d += kStep)
        give(d, *reinterpret_cast<const Piece*>(summed + d));
}

template <class T>
struct NormBackward {
    T* dx;                // (N, D)
    float* partial;       // (blocks, D): dweight of a block's rows
    const T* dy;          // (N, D)
    const T* dsum;        // (N, D) or null
    const T* sum;         // (N, D)
    const float* rstd;    // (N)
    const float* weight;  // (D)
    int64_t N, D;
};

// Blocks that fit on a multiprocessor in the backward pass, and their threads.
template <int row_threads>
constexpr int kBlocks = row_threads == kWarp ? 3 : 2;
template <int row_threads>
constexpr int kBlockThreads = row_threads == kWarp ? 128 : row_threads;

// A block takes every gridDim.x-th group of rows, at least one. A thread has the same columns of
// all its rows: it sums their dweight in registers, and behind the kept ones in its block's partial
// sums.
template <class T, int width, int row_threads>
__global__ void __launch_bounds__(kBlockThreads<row_threads>, kBlocks<row_threads>)
    rms_norm_backward(const NormBackward<T> a) {
    using Piece = Vec<T, width>;
    constexpr int kRows = kBlockThreads<row_threads> / row_threads, kStep = row_threads * width;
    const int64_t first = threadIdx.x % row_threads * width;
    const int group = threadIdx.x / row_threads;
    float* partial = a.partial + blockIdx.x * a.D;
    float dweight[kKept][width] = {};
    bool first_row = true;
    for (int64_t n = int64_t{blockIdx.x} * kRows + group; n < a.N; n += gridDim.x * kRows) {
        const int64_t row = n * a.D;
        const float rstd = a.rstd[n];
        float dot = 0;
        // Calls add(j, dweight of column d + j).
        const auto take = [&](int64_t d, const Piece& dy, const Piece& sum, auto add) {
            float weight[width];
            load(weight, a.weight + d);
#pragma unroll
            for (int j = 0; j < width; ++j) {
                const float g = to_float(dy.at[j]) * to_float(sum.at[j]) * rstd;
                add(j, g);
                dot += g * weight[j];
            }
        };
        Piece dy[kKept], sum[kKept];
#pragma unroll
        for (int i = 0; i < kKept; ++i) {
            const int64_t d = first + i * kStep;
            if (d >= a.D) continue;
            dy[i] = *reinterpret_cast<const Piece*>(a.dy + row + d);
            sum[i] = *reinterpret_cast<const Piece*>(a.sum + row + d);
        }
#pragma unroll
        for (int i = 0; i < kKept; ++i)
            if (first + i * kStep < a.D)
                take(first + i * kStep, dy[i], sum[i], [&](int j, float g) { dweight[i][j] += g; });
        for (int64_t d = first + kKept * kStep; d < a.D; d += kStep)
            take(d, *reinterpret_cast<const Piece*>(a.dy + row + d),
                 *reinterpret_cast<const Piece*>(a.sum + row + d),
                 [&](int j, float g) { partial[d + j] = first_row ? g : partial[d + j] + g; });
        first_row = false;

        const float along = rstd * rstd * row_sum<row_threads>(dot) / a.D;
        const auto give = [&](int64_t d, const Piece& dy, const Piece& sum) {
            float weight[width], dx[width] = {};
            load(weight, a.weight + d);
            if (a.dsum) load(dx, a.dsum + row + d);
#pragma unroll
            for (int j = 0; j < width; ++j)
                dx[j] += rstd * weight[j] * to_float(dy.at[j]) - along * to_float(sum.at[j]);
            assign(a.dx + row + d, dx);
        };
#pragma unroll
        for (int i = 0; i < kKept; ++i)
            if (first + i * kStep < a.D) give(first + i * kStep, dy[i], sum[i]);
        for (int64_t d = first + kKept * kStep; d < a.D; d += kStep)
            give(d, *reinterpret_cast<const Piece*>(a.dy + row + d),
                 *reinterpret_cast<const Piece*>(a.sum + row + d));
    }

    // Over the block's groups of rows, one after the other.
    if constexpr (kRows > 1) {
        __shared__ float sums[apart(kKept * kStep)];
        for (int g = 0; g < kRows; ++g) {
            if (group == g) {
#pragma unroll
                for (int i = 0; i < kKept; ++i)
#pragma unroll
                    for (int j = 0; j < width; ++j) {
                        float& sum = sums[apart(first + i * kStep + j)];
                        sum = g == 0 ? dweight[i][j] : sum + dweight[i][j];
                    }
            }
            __syncthreads();
        }
        for (int64_t d = threadIdx.x; d < a.D; d += kBlockThreads<row_threads>)
            partial[d] = sums[apart(d)];
    } else {
#pragma unroll
        for (int i = 0; i < kKept; ++i)
            if (first + i * kStep < a.D) assign(partial + first + i * kStep, dweight[i]);
    }
}

}  // namespace

void CudaBackend::execute(const RmsNorm& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t N = op.x.shape[0], D = op.x.shape[1];
    if (N == 0) return;
    with_compute_type(op.x.dtype, [&]<class T>() {
        const Norm<T> a{.y = data_of<T>(op.y),
                        .sum = data_of<T>(op.sum),
                        .rstd = data_of<float>(op.rstd),
                        .x = data_of<T>(op.x),
                        .residual = data_of<T>(op.residual),
                        .weight = data_of<float>(op.weight),
                        .N = N,
                        .D = D,
                        .eps = op.eps};
        const bool wide = fits_wide<T>(D, {a.y, a.sum, a.x, a.residual, a.weight});
        with_width<T>(wide, [&]<int width>() {
            if (fits_warp<width>(D))
                rms_norm<T, width, kWarp>
                    <<<ceil_div<int64_t>(N, kThreads / kWarp), kThreads, 0, s.stream>>>(a);
            else
                rms_norm<T, width, kThreads><<<N, kThreads, 0, s.stream>>>(a);
        });
    });
    check_launch("rms_norm");
}

void CudaBackend::execute(const RmsNormBackward& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t N = op.sum.shape[0], D = op.sum.shape[1];
    if (N == 0) return;
    with_compute_type(op.sum.dtype, [&]<class T>() {
        NormBackward<T> a{.dx = data_of<T>(op.dx),
                          .partial = nullptr,
                          .dy = data_of<T>(op.dy),
                          .dsum = data_of<T>(op.dsum),
                          .sum = data_of<T>(op.sum),
                          .rstd = data_of<float>(op.rstd),
                          .weight = data_of<float>(op.weight),
                          .N = N,
                          .D = D};
        const bool wide = fits_wide<T>(D, {a.dx, a.dy, a.dsum, a.sum, a.weight});
        with_width<T>(wide, [&]<int width>() {
            int blocks = 0;
            const auto launch = [&]<int row_threads>() {
                constexpr int threads = kBlockThreads<row_threads>;
                const int64_t groups = ceil_div<int64_t>(N, threads / row_threads);
                blocks = static_cast<int>(
                    std::min<int64_t>(groups, kBlocks<row_threads> * s.multiprocessors));
                a.partial = s.scratch.take<float>(blocks * D);
                rms_norm_backward<T, width, row_threads><<<blocks, threads, 0, s.stream>>>(a);
            };
            if (fits_warp<width>(D))
                launch.template operator()<kWarp>();
            else
                launch.template operator()<kThreads>();
            check_launch("rms_norm_backward");
            add_columns({.sum = data_of<float>(op.dweight),
                         .partial = a.partial,
                         .rows = blocks,
                         .columns = D,
                         .stride = D},
                        s);
        });
    });
}

}  // namespace fomoe
