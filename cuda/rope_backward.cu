// The way back through the rotation and the norm of queries and keys.
#include <algorithm>

#include "cuda/rope.cuh"

namespace fomoe {
namespace {

constexpr int kBlocks = 4;  // that fit on a multiprocessor

template <class T>
struct RotationBackward {
    T* dx;                  // (N, row)
    float* partial;         // (blocks, q_size + k_size): both weights' gradients by block
    float* sums;            // (blocks, ItemSums), or null where shared memory holds them
    int64_t block_sums;     // floats of a block's
    const T* dy;            // (N, row)
    const T* x;             // (N, row)
    const float* rstd;      // (N, A + KV) or (N, 2)
    const float* q_weight;  // as in Rope, and so is all below
    const float* k_weight;
    const int32_t* position;  // (N)
    int64_t N;
    HeadParts head;
    double log2_theta;
};

// A token's item of a head: up to two stretches of `width` elements, turned back.
template <int width>
struct Item {
    float part[2][width];
    int at[2];  // where in the head
    int parts;
};

template <int width, class T>
__device__ __forceinline__ Item<width> turned_back(const HeadParts& h, int item, const T* dy,
                                                   const float* sine) {
    const float* cosine = sine + h.pairs;
    Item<width> out;
    if (item >= h.pair_items) {
        out.parts = 1;
        out.at[0] = out.at[1] = 2 * h.pairs + (item - h.pair_items) * width;
        load(out.part[0], dy + out.at[0]);
        return out;
    }
    const int d = item * width;
    float left[width], right[width], c[width], s[width];
    load(left, dy + d);
    load(right, dy + d + h.pairs);
    load_shared(c, cosine + d);
    load_shared(s, sine + d);
#pragma unroll
    for (int j = 0; j < width; ++j) {
        out.part[0][j] = left[j] * c[j] + right[j] * s[j];
        out.part[1][j] = right[j] * c[j] - left[j] * s[j];
    }
    out.parts = 2;
    out.at[0] = d;
    out.at[1] = d + h.pairs;
    return out;
}

// The part of an item in the sum over j of dn_j x_j weight_j.
template <int width, class T>
__device__ __forceinline__ float dot_of(const Item<width>& item, const T* x, const float* weight) {
    float sum = 0;
#pragma unroll
    for (int p = 0; p < 2; ++p) {
        if (p >= item.parts) continue;
        float v[width], w[width];
        load(v, x + item.at[p]);
        load_shared(w, weight + item.at[p]);
#pragma unroll
        for (int j = 0; j < width; ++j) sum += item.part[p][j] * v[j] * w[j];
    }
    return sum;
}

// The gradient of each element's weight, summed over a block's tokens. Each element belongs to one
// thread, that of its item; 16 bytes of each thread are neighbours, in different banks.
template <int width>
struct ItemSums {
    using Piece = Vec<float, width == 1 ? 1 : 4>;
    static constexpr int kSize = sizeof(Piece) / sizeof(float), kPieces = width / kSize;
    // One piece of all threads. Where a thread has two, the second row begins 16 banks further, so
    // that neighbouring elements of a head lie in different banks as well.
    static constexpr int kRow = kRopeThreads + (kPieces > 1 ? 4 : 0);
    Piece* pieces;  // (rounds, 2, kPieces, kRow)

    // Floats of all heads' items.
    static int64_t size(const HeadParts& h) {
        return ceil_div(h.normed_heads() * h.items, kRopeThreads) * int64_t{2 * width} * kRow;
    }
    __device__ __forceinline__ Piece* at(int item, int part) const {
        return pieces + (item / kRopeThreads * 2 + part) * kPieces * kRow + item % kRopeThreads;
    }
    __device__ __forceinline__ void clear(int items) const {
        for (int i = threadIdx.x; i < items; i += kRopeThreads)
            for (int p = 0; p < 2 * kPieces; ++p) at(i, 0)[p * kRow] = {};
    }
    __device__ __forceinline__ void add(int item, int part, const float (&x)[width]) const {
        Piece* to = at(item, part);
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
            Piece sum = to[p * kRow];
#pragma unroll
            for (int j = 0; j < kSize; ++j) sum.at[j] += x[p * kSize + j];
            to[p * kRow] = sum;
        }
    }
    // Of element d of a head.
    __device__ __forceinline__ float value(const HeadParts& h, int head, int d) const {
        const bool rotated = d < 2 * h.pairs;
        const int part = rotated ? d / h.pairs : 0;
        const int along =
            rotated ? d - part * h.pairs : d - h.pairs;  // items of pairs, then others
        const int j = along % width;
        return at(head * h.items + along / width, part)[j / kSize * kRow].at[j % kSize];
    }
};

template <class T, int width, QkNormMode mode>
__global__ void __launch_bounds__(kRopeThreads, kBlocks)
    rope_backward(const RotationBackward<T> a) {
    constexpr bool kNorm = mode != QkNormMode::none;
    extern __shared__ __align__(16) double memory[];
    const HeadParts& h = a.head;
    RopeTables tables(memory, h);
    const int heads = h.normed_heads(), Dh = h.head_size;
    float* of_block = a.sums ? a.sums + blockIdx.x * a.block_sums : tables.sums;
    const ItemSums<width> sums{reinterpret_cast<typename ItemSums<width>::Piece*>(of_block)};
    if constexpr (kNorm) sums.clear(heads * h.items);
    tables.fill_frequencies(a.log2_theta);
    const float *q_weight = a.q_weight, *k_weight = a.k_weight;
    tables.keep_weights<width>(h, q_weight, k_weight);
    __syncthreads();
    const int64_t row = h.row_size();
    int place = 0;
    for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x, place = 1 - place) {
        const T *dy = a.dy + n * row, *x = a.x + n * row;
        T* dx = a.dx + n * row;
        tables.fill_turn(place, a.position[n]);
        __syncthreads();
        const float* sine = tables.sine(place);

        // Sums over what was normalised together.
        float q_dot = 0, k_dot = 0;
        if constexpr (mode == QkNormMode::head) {
            const int lane = threadIdx.x % h.lanes;
            for (int first = 0; first < heads; first += kRopeThreads / h.lanes) {
                const int head = first + threadIdx.x / h.lanes;
                const float* weight = head_weight<mode>(h, head, q_weight, k_weight);
                float dot = 0;
                for (int item = lane; item < h.items && head < heads; item += h.lanes)
                    dot += dot_of(turned_back<width>(h, item, dy + int64_t{head} * Dh, sine),
                                  x + int64_t{head} * Dh, weight);
                dot = group_sum(dot, h.lanes);
                if (lane == 0 && head < heads) tables.of_head(place)[head] = dot;
            }
            __syncthreads();
        }
        if constexpr (mode == QkNormMode::full) {
            for (int i = threadIdx.x; i < heads * h.items; i += kRopeThreads) {
                const int head = i / h.items, item = i - head * h.items;
                const float dot =
                    dot_of(turned_back<width>(h, item, dy + int64_t{head} * Dh, sine),
                           x + int64_t{head} * Dh, head_weight<mode>(h, head, q_weight, k_weight));
                (head < h.heads ? q_dot : k_dot) += dot;
            }
            q_dot = block_sum<kRopeThreads>(q_dot);
            k_dot = block_sum<kRopeThreads>(k_dot);
        }

        for (int i = threadIdx.x; i < heads * h.items; i += kRopeThreads) {
            const int head = i / h.items;
            const bool is_query = head < h.heads;
            const int64_t at = int64_t{head} * Dh;
            Item<width> item = turned_back<width>(h, i - head * h.items, dy + at, sine);
            if constexpr (kNorm) {
                const float* weight = head_weight<mode>(h, head, q_weight, k_weight);
                float rstd, along;
                if constexpr (mode == QkNormMode::head) {
                    rstd = a.rstd[n * heads + head];
                    along = tables.of_head(place)[head] / Dh;
                } else {
                    rstd = a.rstd[n * 2 + (is_query ? 0 : 1)];
                    along = (is_query ? q_dot / h.heads : k_dot / h.kv_heads) / Dh;
                }
                along = along * rstd * (rstd * rstd);
#pragma unroll
                for (int p = 0; p < 2; ++p) {
                    if (p >= item.parts) continue;
                    const int d = item.at[p];
                    float v[width], w[width];
                    load(v, x + at + d);
                    load_shared(w, weight + d);
                    float g[width];
#pragma unroll
                    for (int j = 0; j < width; ++j) {
                        g[j] = item.part[p][j] * v[j] * rstd;
                        item.part[p][j] = rstd * w[j] * item.part[p][j] - along * v[j];
                    }
                    sums.add(i, p, g);
                }
            }
            store(dx + at + item.at[0], item.part[0]);
            if (item.parts == 2) store(dx + at + item.at[1], item.part[1]);
        }
        if (dx == dy) continue;
        using Piece = Vec<T, width>;
        for (int64_t d = int64_t{heads} * Dh + threadIdx.x * width; d < row;
             d += kRopeThreads * width)
            *reinterpret_cast<Piece*>(dx + d) = *reinterpret_cast<const Piece*>(dy + d);
    }
    if constexpr (!kNorm) return;

    // Over the heads that share weights.
    __syncthreads();
    const int shared_q = mode == QkNormMode::head ? h.heads : 1;
    const int shared_k = mode == QkNormMode::head ? h.kv_heads : 1;
    const int q_size = h.heads / shared_q * Dh, k_size = h.kv_heads / shared_k * Dh;
    float* partial = a.partial + int64_t{blockIdx.x} * (q_size + k_size);
    for (int i = threadIdx.x; i < q_size + k_size; i += kRopeThreads) {
        const bool is_query = i < q_size;
        const int first = is_query ? i / Dh : h.heads + (i - q_size) / Dh;  // head
        float sum = 0;
        for (int j = 0; j < (is_query ? shared_q : shared_k); ++j)
            sum += sums.value(h, first + j, i % Dh);
        partial[i] = sum;
    }
}

}  // namespace

void CudaBackend::execute(const RopeBackward& op, Queue queue) {
    constexpr int64_t kLargestShared = 96 << 10, kAllShared = 200 << 10;  // bytes
    const Stream s = begin(queue);
    if (op.dqkv.count() == 0) return;
    const bool norm = op.mode() != QkNormMode::none;
    const int64_t N = op.dqkv.shape[0];
    const int64_t q_size = norm ? op.q_weight.count() : 0, k_size = norm ? op.k_weight.count() : 0;
    with_compute_type(op.dqkv.dtype, [&]<class T>() {
        RotationBackward<T> a{.dx = data_of<T>(op.dx),
                              .dy = data_of<T>(op.dqkv),
                              .x = data_of<T>(op.x),
                              .rstd = data_of<float>(op.rstd),
                              .q_weight = data_of<float>(op.q_weight),
                              .k_weight = data_of<float>(op.k_weight),
                              .position = data_of<int32_t>(op.position),
                              .N = N,
                              .log2_theta = std::log2(double{op.theta})};
        const bool wide = rope_fits_wide<T>(op, {a.dx, a.dy, a.x, a.q_weight, a.k_weight});
        with_width<T>(wide, [&]<int width>() {
            a.head = head_parts(op, width);
            a.block_sums = norm ? ItemSums<width>::size(a.head) : 0;
            int64_t shared = RopeTables::bytes(a.head);
            const bool sums_shared = shared + a.block_sums * 4 <= kLargestShared;
            if (sums_shared) shared += a.block_sums * 4;
            const int64_t resident = std::clamp<int64_t>(kAllShared / shared, 1, kBlocks);
            const int blocks = static_cast<int>(std::min<int64_t>(N, resident * s.multiprocessors));
            if (norm) a.partial = s.scratch.take<float>(blocks * (q_size + k_size));
            if (!sums_shared) a.sums = s.scratch.take<float>(blocks * a.block_sums);
            with_mode(op.mode(), [&]<QkNormMode mode>() {
                if (shared > 48 << 10)
                    check_cuda(cudaFuncSetAttribute(rope_backward<T, width, mode>,
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    static_cast<int>(shared)),
                               "cudaFuncSetAttribute");
                rope_backward<T, width, mode><<<blocks, kRopeThreads, shared, s.stream>>>(a);
            });
            check_launch("rope_backward");
            if (!norm) return;
            ColumnSums weights{.sum = data_of<float>(op.dq_weight),
                               .partial = a.partial,
                               .rows = blocks,
                               .columns = q_size,
                               .stride = q_size + k_size};
            add_columns(weights, s);
            weights.sum = data_of<float>(op.dk_weight);
            weights.partial += q_size;
            weights.columns = k_size;
            add_columns(weights, s);
        });
    });
}

}  // namespace fomoe
