// RMSNorm: a warp takes one row after the other, or a block where rows are long, and keeps each in
// registers, the weight in shared memory.
#include <algorithm>

#include "cuda/rows.cuh"
#include "ops/rms_norm.h"

namespace fomoe {
namespace {

constexpr int kThreads = 256;
constexpr int kForwardBlocks = 4;  // that fit on a multiprocessor
constexpr int kKept = 4;  // vectors of a row that a thread keeps; what lies behind is read again

// Whether a warp keeps whole rows.
template <int width>
bool fits_warp(int64_t D) {
    return D <= int64_t{kWarp} * kKept * width;
}

// Floats of the columns that threads keep, in shared memory: 16 bytes of each thread are
// neighbours, so that they lie in different banks.
template <int width, int row_threads>
struct KeptColumns {
    using Piece = Vec<float, width == 1 ? 1 : 4>;
    static constexpr int kSize = sizeof(Piece) / sizeof(float), kPieces = width / kSize;
    Piece* pieces;  // (kKept, kPieces, row_threads)

    // Bytes for rows of D columns.
    static int64_t bytes(int64_t D) {
        const int64_t vectors = std::min<int64_t>(ceil_div<int64_t>(D, row_threads * width), kKept);
        return vectors * row_threads * width * sizeof(float);
    }
    // Calls body(piece here, float that it begins with in a row of D), by all threads of a block.
    template <class Body>
    __device__ __forceinline__ void for_each(int64_t D, Body body) const {
        constexpr int all = kKept * kPieces * row_threads;
        const int count = D < all * kSize ? static_cast<int>(D) / kSize : all;
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            const int vector = i / kPieces / row_threads, thread = i / kPieces % row_threads;
            body(pieces[(vector * kPieces + i % kPieces) * row_threads + thread], i * kSize);
        }
    }
    // A thread's i-th vector.
    __device__ __forceinline__ void load(float (&x)[width], int i) const {
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
            const Piece piece = pieces[(i * kPieces + p) * row_threads + threadIdx.x % row_threads];
#pragma unroll
            for (int j = 0; j < kSize; ++j) x[p * kSize + j] = piece.at[j];
        }
    }
    __device__ __forceinline__ void store(const float (&x)[width], int i) const {
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
            Piece piece;
#pragma unroll
            for (int j = 0; j < kSize; ++j) piece.at[j] = x[p * kSize + j];
            pieces[(i * kPieces + p) * row_threads + threadIdx.x % row_threads] = piece;
        }
    }
};

// The weight in a block's dynamic shared memory.
template <int width, int row_threads>
__device__ __forceinline__ KeptColumns<width, row_threads> kept_weight(const float* weight,
                                                                       int64_t D) {
    using Kept = KeptColumns<width, row_threads>;
    extern __shared__ uint4 memory[];
    const Kept kept{reinterpret_cast<typename Kept::Piece*>(memory)};
    kept.for_each(D, [&](auto& piece, int d) {
        piece = *reinterpret_cast<const typename Kept::Piece*>(weight + d);
    });
    __syncthreads();
    return kept;
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

// Two elements of bf16 stay one register until here; taken one by one they would be two.
template <class T, int width>
__device__ __forceinline__ void unpack(float (&x)[width], const Vec<T, width> v) {
    if constexpr (sizeof(T) == 2 && width % 2 == 0) {
        uint32_t pairs[width / 2];
        memcpy(pairs, &v, sizeof v);
#pragma unroll
        for (int i = 0; i < width / 2; ++i) {
            x[2 * i] = __uint_as_float(pairs[i] << 16);
            x[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (int j = 0; j < width; ++j) x[j] = to_float(v.at[j]);
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

// A row of Norm. y follows from the sum as it is stored, which is what the backward pass will see.
template <class T, int width, int row_threads>
__device__ __forceinline__ void norm_row(const Norm<T>& a, int64_t n,
                                         const KeptColumns<width, row_threads>& weight) {
    using Piece = Vec<T, width>;
    constexpr int kStep = row_threads * width;
    const int64_t first = threadIdx.x % row_threads * width;
    const int64_t row = n * a.D;
    float squares = 0;
    const auto take = [&](int64_t d) {
        Piece piece = *reinterpret_cast<const Piece*>(a.x + row + d);
        float v[width];
        unpack(v, piece);
        if (a.residual) {
            float other[width];
            unpack(other, *reinterpret_cast<const Piece*>(a.residual + row + d));
#pragma unroll
            for (int j = 0; j < width; ++j) piece.at[j] = from_float<T>(v[j] + other[j]);
            *reinterpret_cast<Piece*>(a.sum + row + d) = piece;
            unpack(v, piece);
        }
#pragma unroll
        for (int j = 0; j < width; ++j) squares += v[j] * v[j];
        return piece;
    };
    Piece kept[kKept];
#pragma unroll
    for (int i = 0; i < kKept; ++i)
        if (first + i * kStep < a.D) kept[i] = take(first + i * kStep);
    for (int64_t d = first + kKept * kStep; d < a.D; d += kStep) take(d);

    const float rstd = 1.0f / sqrtf(row_sum<row_threads>(squares) / a.D + a.eps);
    if (first == 0) a.rstd[n] = rstd;
    // y holds the weight.
    const auto give = [&](int64_t d, const Piece& piece, float(&y)[width]) {
        float v[width];
        unpack(v, piece);
#pragma unroll
        for (int j = 0; j < width; ++j) y[j] *= v[j] * rstd;
        assign(a.y + row + d, y);
    };
    float y[width];
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
        const int64_t d = first + i * kStep;
        if (d >= a.D) continue;
        weight.load(y, i);
        give(d, kept[i], y);
    }
    const T* summed = (a.residual ? a.sum : a.x) + row;
    for (int64_t d = first + kKept * kStep; d < a.D; d += kStep) {
        load(y, a.weight + d);
        give(d, *reinterpret_cast<const Piece*>(summed + d), y);
    }
}

// A block takes every gridDim.x-th group of rows.
template <class T, int width, int row_threads>
__global__ void __launch_bounds__(kThreads, kForwardBlocks) rms_norm(const Norm<T> a) {
    const auto weight = kept_weight<width, row_threads>(a.weight, a.D);
    constexpr int kRows = kThreads / row_threads;
    for (int64_t n = int64_t{blockIdx.x} * kRows + threadIdx.x / row_threads; n < a.N;
         n += int64_t{gridDim.x} * kRows)
        norm_row<T, width, row_threads>(a, n, weight);
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
    const auto weight = kept_weight<width, row_threads>(a.weight, a.D);
    const int64_t first = threadIdx.x % row_threads * width;
    const int group = threadIdx.x / row_threads;
    float* partial = a.partial + blockIdx.x * a.D;
    float dweight[kKept][width] = {};
    bool first_row = true;
    for (int64_t n = int64_t{blockIdx.x} * kRows + group; n < a.N; n += gridDim.x * kRows) {
        const int64_t row = n * a.D;
        const float rstd = a.rstd[n];
        float dot = 0;
        float w[width];  // of the weight
        // Calls add(j, dweight of the j-th column).
        const auto take = [&](const Piece& dy, const Piece& sum, auto add) {
            float u[width], v[width];
            unpack(u, dy);
            unpack(v, sum);
#pragma unroll
            for (int j = 0; j < width; ++j) {
                const float g = u[j] * v[j] * rstd;
                add(j, g);
                dot += g * w[j];
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
        for (int i = 0; i < kKept; ++i) {
            if (first + i * kStep >= a.D) continue;
            weight.load(w, i);
            take(dy[i], sum[i], [&](int j, float g) { dweight[i][j] += g; });
        }
        for (int64_t d = first + kKept * kStep; d < a.D; d += kStep) {
            load(w, a.weight + d);
            take(*reinterpret_cast<const Piece*>(a.dy + row + d),
                 *reinterpret_cast<const Piece*>(a.sum + row + d),
                 [&](int j, float g) { partial[d + j] = first_row ? g : partial[d + j] + g; });
        }
        first_row = false;

        const float along = rstd * rstd * row_sum<row_threads>(dot) / a.D;
        const auto give = [&](int64_t d, const Piece& dy, const Piece& sum) {
            float u[width], v[width], dx[width] = {};
            unpack(u, dy);
            unpack(v, sum);
            if (a.dsum) load(dx, a.dsum + row + d);
#pragma unroll
            for (int j = 0; j < width; ++j) dx[j] += rstd * w[j] * u[j] - along * v[j];
            assign(a.dx + row + d, dx);
        };
#pragma unroll
        for (int i = 0; i < kKept; ++i) {
            const int64_t d = first + i * kStep;
            if (d >= a.D) continue;
            weight.load(w, i);
            give(d, dy[i], sum[i]);
        }
        for (int64_t d = first + kKept * kStep; d < a.D; d += kStep) {
            load(w, a.weight + d);
            give(d, *reinterpret_cast<const Piece*>(a.dy + row + d),
                 *reinterpret_cast<const Piece*>(a.sum + row + d));
        }
    }

    // Over the block's groups of rows, one after the other, in the place of the weight.
    const auto& sums = weight;
    for (int g = 0; g < kRows; ++g) {
        __syncthreads();
        if (group != g) continue;
#pragma unroll
        for (int i = 0; i < kKept; ++i) {
            if (first + i * kStep >= a.D) continue;
            float sum[width] = {};
            if (g > 0) sums.load(sum, i);
#pragma unroll
            for (int j = 0; j < width; ++j) sum[j] += dweight[i][j];
            sums.store(sum, i);
        }
    }
    __syncthreads();
    sums.for_each(a.D, [&](const auto& piece, int d) {
        *reinterpret_cast<std::decay_t<decltype(piece)>*>(partial + d) = piece;
    });
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
            const auto launch = [&]<int row_threads>() {
                const int64_t groups = ceil_div<int64_t>(N, kThreads / row_threads);
                const int64_t blocks =
                    std::min<int64_t>(groups, kForwardBlocks * s.multiprocessors);
                const int64_t shared = KeptColumns<width, row_threads>::bytes(D);
                rms_norm<T, width, row_threads><<<blocks, kThreads, shared, s.stream>>>(a);
            };
            if (fits_warp<width>(D))
                launch.template operator()<kWarp>();
            else
                launch.template operator()<kThreads>();
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
                const int64_t shared = KeptColumns<width, row_threads>::bytes(D);
                rms_norm_backward<T, width, row_threads><<<blocks, threads, shared, s.stream>>>(a);
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
