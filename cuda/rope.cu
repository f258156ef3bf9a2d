// Norm of queries and keys, and rotation: a block takes one token after the other.
#include <algorithm>

#include "cuda/rope.cuh"

namespace fomoe {
namespace {

constexpr int kBlocks = 5;  // that fit on a multiprocessor

template <class T>
struct Rotation {
    T* y;                     // (N, row)
    float* rstd;              // (N, A + KV) or (N, 2) or null
    const T* x;               // (N, row)
    const float* q_weight;    // (Dh) or (A Dh) or null
    const float* k_weight;    // (Dh) or (KV Dh) or null
    const int32_t* position;  // (N)
    int64_t N;
    HeadParts head;
    double log2_theta;
    float eps;
};

template <int width, class T>
__device__ __forceinline__ float squares_of(const T* x) {
    float v[width], sum = 0;
    load(v, x);
#pragma unroll
    for (int j = 0; j < width; ++j) sum += v[j] * v[j];
    return sum;
}

// 1 / rms of each head of a token.
template <int width, class T>
__device__ void norm_heads(const Rotation<T>& a, int64_t n, const T* x, float* of_head) {
    const HeadParts& h = a.head;
    const int lane = threadIdx.x % h.lanes, heads = h.normed_heads();
    for (int first = 0; first < heads; first += kRopeThreads / h.lanes) {
        const int head = first + threadIdx.x / h.lanes;
        float squares = 0;
        for (int d = lane * width; d < h.head_size && head < heads; d += h.lanes * width)
            squares += squares_of<width>(x + int64_t{head} * h.head_size + d);
        squares = group_sum(squares, h.lanes);
        if (lane != 0 || head >= heads) continue;
        of_head[head] = 1.0f / sqrtf(squares / h.head_size + a.eps);
        a.rstd[n * heads + head] = of_head[head];
    }
}

// 1 / rms of `size` elements.
template <int width, class T>
__device__ float norm_all(const T* x, int64_t size, float eps) {
    float squares = 0;
    for (int64_t d = threadIdx.x * width; d < size; d += kRopeThreads * width)
        squares += squares_of<width>(x + d);
    return 1.0f / sqrtf(block_sum<kRopeThreads>(squares) / size + eps);
}

template <class T, int width, QkNormMode mode>
__global__ void __launch_bounds__(kRopeThreads, kBlocks) rope(const Rotation<T> a) {
    extern __shared__ __align__(16) double memory[];
    const HeadParts& h = a.head;
    RopeTables tables(memory, h);
    tables.fill_frequencies(a.log2_theta);
    const float *q_weight = a.q_weight, *k_weight = a.k_weight;
    tables.keep_weights<width>(h, q_weight, k_weight);
    __syncthreads();
    const int64_t row = h.row_size();
    int place = 0;
    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x, place = 1 - place) {
        const T* x = a.x + n * row;
        T* y = a.y + n * row;
        tables.fill_turn(place, a.position[n]);
        float q_rstd = 1, k_rstd = 1;
        if constexpr (mode == QkNormMode::head) norm_heads<width>(a, n, x, tables.of_head(place));
        if constexpr (mode == QkNormMode::full) {
            const int64_t q_size = int64_t{h.heads} * h.head_size;
            q_rstd = norm_all<width>(x, q_size, a.eps);
            k_rstd = norm_all<width>(x + q_size, int64_t{h.kv_heads} * h.head_size, a.eps);
            if (threadIdx.x == 0) {
                a.rstd[n * 2] = q_rstd;
                a.rstd[n * 2 + 1] = k_rstd;
            }
        }
        __syncthreads();

        const float *sine = tables.sine(place), *cosine = sine + h.pairs;
        const int heads = h.normed_heads();
        for (int i = threadIdx.x; i < heads * h.items; i += kRopeThreads) {
            const int head = i / h.items, item = i - head * h.items;
            const float* weight = head_weight<mode>(h, head, q_weight, k_weight);
            float rstd = head < h.heads ? q_rstd : k_rstd;
            if constexpr (mode == QkNormMode::head) rstd = tables.of_head(place)[head];
            const T* from = x + int64_t{head} * h.head_size;
            T* to = y + int64_t{head} * h.head_size;
            const auto normalised = [&](float(&v)[width], int d) {
                load(v, from + d);
                if constexpr (mode == QkNormMode::none) return;
                float w[width];
                load_shared(w, weight + d);
#pragma unroll
                for (int j = 0; j < width; ++j) v[j] = w[j] * (v[j] * rstd);
            };
            float v[width];
            if (item < h.pair_items) {
                const int d = item * width;
                float u[width], c[width], s[width], left[width], right[width];
                normalised(v, d);
                normalised(u, d + h.pairs);
                load_shared(c, cosine + d);
                load_shared(s, sine + d);
#pragma unroll
                for (int j = 0; j < width; ++j) {
                    left[j] = v[j] * c[j] - u[j] * s[j];
                    right[j] = u[j] * c[j] + v[j] * s[j];
                }
                store(to + d, left);
                store(to + d + h.pairs, right);
            } else if (from != to) {
                const int d = 2 * h.pairs + (item - h.pair_items) * width;
                normalised(v, d);
                store(to + d, v);
            }
        }
        if (x == y) continue;
        using Piece = Vec<T, width>;
        for (int64_t d = int64_t{heads} * h.head_size + threadIdx.x * width; d < row;
             d += kRopeThreads * width)
            *reinterpret_cast<Piece*>(y + d) = *reinterpret_cast<const Piece*>(x + d);
    }
}

}  // namespace

void CudaBackend::execute(const Rope& op, Queue queue) {
    const Stream s = begin(queue);
    if (op.x.count() == 0) return;
    with_compute_type(op.x.dtype, [&]<class T>() {
        Rotation<T> a{.y = data_of<T>(op.qkv),
                      .rstd = data_of<float>(op.rstd),
                      .x = data_of<T>(op.x),
                      .q_weight = data_of<float>(op.q_weight),
                      .k_weight = data_of<float>(op.k_weight),
                      .position = data_of<int32_t>(op.position),
                      .N = op.x.shape[0],
                      .log2_theta = std::log2(double{op.theta}),
                      .eps = op.eps};
        const bool wide = rope_fits_wide<T>(op, {a.y, a.x, a.q_weight, a.k_weight});
        const int64_t blocks = std::min<int64_t>(a.N, kBlocks * s.multiprocessors);
        with_width<T>(wide, [&]<int width>() {
            a.head = head_parts(op, width);
            with_mode(op.mode(), [&]<QkNormMode mode>() {
                rope<T, width, mode>
                    <<<blocks, kRopeThreads, RopeTables::bytes(a.head), s.stream>>>(a);
            });
        });
    });
    check_launch("rope");
}

}  // namespace fomoe
