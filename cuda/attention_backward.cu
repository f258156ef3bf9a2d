// Attention, backward: the probabilities are computed again from the kept logsumexp. Blocks that
// own keys stream through the queries that see them, those that own queries through the keys: the
// scores are computed twice, and nobody adds to what others own.
#include <cmath>

#include "cuda/attention_products.cuh"
#include "ops/attention.h"

namespace fomoe {
namespace {

constexpr float kLog2E = 1.44269504f;

// The tiles of the two kernels by element type and width: `rows` are owned, `columns` stream by.
// At most 99 KiB of shared memory.
template <class T, int width, bool owns_keys>
struct Config {
    static constexpr bool kIsBf16 = sizeof(T) == 2;
    static constexpr int m = kIsBf16 && width <= (owns_keys ? 64 : 96) ? 2 : 1;
    static constexpr int kWarps = !kIsBf16 && width > 128 ? 2 : 4;
    static constexpr int kThreads = kWarps * kWarp;
    static constexpr int kRows = kWarps * 16 * m;
    static constexpr int kColumns = kIsBf16 ? (width > 192 ? 16 : 32)
                                            : (width > 128  ? 8
                                               : width > 64 ? 16
                                                            : 32);
    static constexpr int kSlots = 2;
    static constexpr int kOwnedBytes = 2 * kRows * width * sizeof(T);
    // Two tiles, and for each query two numbers and where it begins.
    static constexpr int kSlotBytes =
        2 * kColumns * width * sizeof(T) + (owns_keys ? ceil_div(3 * kColumns * 4, 128) * 128 : 0);
    static constexpr int kBytes = kOwnedBytes + kSlots * kSlotBytes;
    static_assert(kBytes <= 99 * 1024);
};

// What both kernels read and write.
template <class T>
struct Operands {
    Heads<T> dqkv;
    Heads<const T> dy;
    Heads<const T> qkv;
    const float* lse;    // (A, N), counting in powers of 2
    const float* delta;  // (A, N), dy . y
    int64_t N;
    HeadLayout layout;
    float scale;
    float unit;  // of scores, in powers of 2
};

// lse and delta by head, so that those of neighbouring queries are neighbours. A block has 32
// tokens of 8 heads: 8 lanes a token, which take head after head.
constexpr int kRowLanes = 8;
constexpr int kPrepareThreads = kWarp * kRowLanes;
template <class T>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare(float* lse_by_head, float* delta_by_head, const float* lse, Heads<const T> dy,
            Heads<const T> y, int64_t N, int heads) {
    constexpr int step = 16 / sizeof(T);
    __shared__ float lse_of[kRowLanes][kWarp + 4], delta_of[kRowLanes][kWarp + 4];
    const int groups = ceil_div(heads, kRowLanes), first_head = blockIdx.x % groups * kRowLanes;
    const int64_t first = int64_t{blockIdx.x / groups} * kWarp;
    const int token = threadIdx.x / kRowLanes, lane = threadIdx.x % kRowLanes, size = dy.size;
    const int64_t n = first + token;
    float delta = 0;  // of the lane's head
    for (int h = 0; h < kRowLanes && first_head + h < heads; ++h) {
        const T *a = dy.at(n, first_head + h), *b = y.at(n, first_head + h);
        float dot = 0;
        if (n < N && dy.vectors && y.vectors) {
            for (int d = step * lane; d < size; d += step * kRowLanes) {
                const auto u = *reinterpret_cast<const Vec<T, step>*>(a + d);
                const auto v = *reinterpret_cast<const Vec<T, step>*>(b + d);
#pragma unroll
                for (int e = 0; e < step; ++e) dot += to_float(u.at[e]) * to_float(v.at[e]);
            }
        } else if (n < N) {
            for (int d = lane; d < size; d += kRowLanes) dot += to_float(a[d]) * to_float(b[d]);
        }
#pragma unroll
        for (int distance = kRowLanes / 2; distance > 0; distance /= 2)
            dot += __shfl_xor_sync(kAllLanes, dot, distance);
        if (lane == h) delta = dot;
    }
    if (n < N && first_head + lane < heads) {
        lse_of[lane][token] = kLog2E * lse[n * heads + first_head + lane];
        delta_of[lane][token] = delta;
    }
    __syncthreads();
    const int h = threadIdx.x / kWarp, column = threadIdx.x % kWarp;
    if (first_head + h >= heads || first + column >= N) return;
    const int64_t at = (first_head + h) * N + first + column;
    lse_by_head[at] = lse_of[h][column];
    delta_by_head[at] = delta_of[h][column];
}

// The first query from `query` on that does not see the key, or T. By a whole warp.
__device__ __forceinline__ int end_of_view(const HeadLayout& layout, int64_t first_row, int query,
                                           int key) {
    int end = layout.T;
    if (!layout.begin) return end;
    // Those before `query` see it, those from `end` on do not.
    while (query < end) {
        const int step = ceil_div(end - query, kWarp);
        const int probe = query + threadIdx.x % kWarp * step;
        const bool sees = probe < end && layout.first_key(first_row, probe) <= key;
        const int seen = __popc(__ballot_sync(kAllLanes, sees));
        if (seen == 0) return query;
        end = min(end, query + seen * step);
        query += (seen - 1) * step + 1;
    }
    return query;
}

// p (left right^T - delta(r, column)) for the probabilities p.
template <class T, int m, int columns, int width, class Delta>
__device__ __forceinline__ Factor<T, m, columns> score_gradient(const Factor<T, m, columns>& p,
                                                                const RowsInTile<T, m, width>& left,
                                                                Tile<T, width> right, Delta delta) {
    Sums<m, columns> sums;
    sums.clear();
    multiply_transposed(sums, left, right);
#pragma unroll
    for (int i = 0; i < m; ++i)
#pragma unroll
        for (int n = 0; n < columns / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int column = 8 * n + 2 * (threadIdx.x % 4) + e % 2;
                sums.at[i][n][e] =
                    p.value(i, n, e) * (sums.at[i][n][e] - delta(2 * i + e / 2, column));
            }
    return Factor<T, m, columns>(sums);
}

// Owns a tile of keys and values of one key/value head and streams through the queries of all its
// heads.
template <class T, int width, bool keys, bool values>
__global__ void __launch_bounds__(Config<T, width, true>::kThreads, 2)
    differentiate_keys(Operands<T> op) {
    using C = Config<T, width, true>;
    using TileT = Tile<T, width>;
    constexpr int kColumns = C::kColumns;
    extern __shared__ __align__(128) unsigned char shared[];

    // The first keys are seen by the most queries and go first.
    const HeadLayout& layout = op.layout;
    const int length = layout.T, group = layout.heads / layout.kv_heads;
    const BlockOfHeads block(layout, layout.kv_heads, ceil_div(length, C::kRows));
    const int first = block.tile * C::kRows, last = min(first + C::kRows, length) - 1;

    const TileT key_tile{reinterpret_cast<T*>(shared)};
    const TileT value_tile{key_tile.data + C::kRows * width};
    struct Slot {
        TileT query, dy;
        float *lse, *delta;
        int* begin;
    };
    const auto slot = [&](int i) {
        T* data = reinterpret_cast<T*>(shared + C::kOwnedBytes + i * C::kSlotBytes);
        float* numbers = reinterpret_cast<float*>(data + 2 * kColumns * width);
        return Slot{{data},
                    {data + kColumns * width},
                    numbers,
                    numbers + kColumns,
                    reinterpret_cast<int*>(numbers + 2 * kColumns)};
    };

    const int first_tile = first / kColumns;
    const int end_tile = ceil_div(end_of_view(layout, block.first_row, last, last), kColumns);
    // The item that was loaded last.
    static_assert(C::kSlots == 2);
    int head = block.head * group, tile = first_tile;
    const int end_head = head + group;
    const auto load = [&](unsigned item) {
        if (item > 0 && ++tile == end_tile) {
            tile = first_tile;
            ++head;
        }
        if (head == end_head) return;
        const int i = tile * kColumns, there = length - i;
        const int64_t row = block.first_row + i;
        const Slot to = slot(item % C::kSlots);
        load_tile<kColumns, C::kThreads>(to.query, op.qkv, row, head, there);
        load_tile<kColumns, C::kThreads>(to.dy, op.dy, row, head, there);
        const int64_t at = head * op.N + row;
        static_assert(kColumns <= C::kThreads);
        const int c = threadIdx.x;
        if (c < kColumns) {
            const int64_t inside = c < there ? c : 0;
            const uint32_t bytes = c < there ? 4 : 0;
            ptx::cp_async_4(to.lse + c, op.lse + at + inside, bytes);
            ptx::cp_async_4(to.delta + c, op.delta + at + inside, bytes);
            if (layout.begin) ptx::cp_async_4(to.begin + c, layout.begin + row + inside, bytes);
        }
    };

    load_tile<C::kRows, C::kThreads>(key_tile, op.qkv, block.first_row + first,
                                     layout.key_head(block.head), length - first);
    load_tile<C::kRows, C::kThreads>(value_tile, op.qkv, block.first_row + first,
                                     layout.value_head(block.head), length - first);
    Ring<C::kSlots> ring;
    ring.start(load);

    const int warp_row = threadIdx.x / kWarp * 16 * C::m;
    const int warp_first = first + warp_row, warp_last = warp_first + 16 * C::m - 1;
    const RowsInTile<T, C::m, width> key_rows{key_tile, warp_row};
    const RowsInTile<T, C::m, width> value_rows{value_tile, warp_row};
    Sums<C::m, keys ? width : 8> dkeys;
    Sums<C::m, values ? width : 8> dvalues;
    dkeys.clear();
    dvalues.clear();

    while (head < end_head) {
        const int i = tile * kColumns;
        const Slot from = slot(ring.next(load));
        const int final = min(kColumns, length - i) - 1;  // the last column with a query
        const auto begin = [&](int column) {
            return layout.begin ? max(0, min(from.begin[column], i + column)) : 0;
        };
        if (i + final < warp_first || begin(0) > warp_last) continue;

        Sums<C::m, kColumns> scores;
        scores.clear();
        multiply_transposed(scores, key_rows, from.query);
        // Queries behind the end are all 0, and so is what they add.
        scores.map([&](int, int column, float x) {
            return ptx::exp2_approx(fmaf(op.unit, x, -from.lse[column]));
        });
        if (i < warp_last || begin(final) > warp_first)
            scores.map([&](int r, int column, float x) {
                const int key = warp_first + row_of(r);
                return key <= i + column && key >= begin(column) ? x : 0.0f;
            });
        const Factor<T, C::m, kColumns> p(scores);
        if constexpr (values) multiply(dvalues, p, from.dy);
        if constexpr (keys) {
            const auto ds = score_gradient(p, value_rows, from.dy,
                                           [&](int, int column) { return from.delta[column]; });
            multiply(dkeys, ds, from.query);
        }
    }

    const int there = length - warp_first;
    const int64_t n = block.first_row + warp_first;
    if constexpr (keys) {
        dkeys.map([&](int, int, float x) { return op.scale * x; });
        store_rows(dkeys, key_rows, op.dqkv, n, layout.key_head(block.head), there);
    }
    if constexpr (values)
        store_rows(dvalues, value_rows, op.dqkv, n, layout.value_head(block.head), there);
}

// Owns a tile of queries of one head and streams through the keys that they see.
template <class T, int width>
__global__ void __launch_bounds__(Config<T, width, false>::kThreads, 2)
    differentiate_queries(Operands<T> op) {
    using C = Config<T, width, false>;
    using TileT = Tile<T, width>;
    constexpr int kColumns = C::kColumns;
    extern __shared__ __align__(128) unsigned char shared[];

    // The last queries see the most keys and go first.
    const HeadLayout& layout = op.layout;
    const int length = layout.T, tiles = ceil_div(length, C::kRows);
    const BlockOfHeads block(layout, layout.heads, tiles);
    const int kv_head = block.head / (layout.heads / layout.kv_heads);
    const int first = (tiles - 1 - block.tile) * C::kRows, last = min(first + C::kRows, length) - 1;
    const int first_tile = layout.first_key(block.first_row, first) / kColumns;
    const int end_tile = last / kColumns + 1;

    const TileT query_tile{reinterpret_cast<T*>(shared)};
    const TileT dy_tile{query_tile.data + C::kRows * width};
    const auto slot = [&](int i) {  // keys, then values
        return TileT{reinterpret_cast<T*>(shared + C::kOwnedBytes + i * C::kSlotBytes)};
    };
    const auto load = [&](unsigned item) {
        const int j = (first_tile + item) * kColumns;
        if (j > last) return;
        const TileT to = slot(item % C::kSlots);
        const int64_t n = block.first_row + j;
        load_tile<kColumns, C::kThreads>(to, op.qkv, n, layout.key_head(kv_head), length - j);
        load_tile<kColumns, C::kThreads>(TileT{to.data + kColumns * width}, op.qkv, n,
                                         layout.value_head(kv_head), length - j);
    };
    load_tile<C::kRows, C::kThreads>(query_tile, op.qkv, block.first_row + first, block.head,
                                     length - first);
    load_tile<C::kRows, C::kThreads>(dy_tile, op.dy, block.first_row + first, block.head,
                                     length - first);
    Ring<C::kSlots> ring;
    ring.start(load);

    const int warp_row = threadIdx.x / kWarp * 16 * C::m;
    const int warp_first = min(first + warp_row, length - 1);
    const int warp_last = min(first + warp_row + 16 * C::m, length) - 1;
    const int warp_begin = layout.first_key(block.first_row, warp_first);
    const int all_begin = layout.first_key(block.first_row, warp_last);
    // Queries behind the end repeat the last one.
    int begin[2 * C::m];
    float lse[2 * C::m], delta[2 * C::m];
#pragma unroll
    for (int r = 0; r < 2 * C::m; ++r) {
        const int query = min(first + warp_row + row_of(r), length - 1);
        const int64_t at = block.head * op.N + block.first_row + query;
        begin[r] = layout.first_key(block.first_row, query);
        lse[r] = op.lse[at];
        delta[r] = op.delta[at];
    }

    const RowsInTile<T, C::m, width> query_rows{query_tile, warp_row};
    const RowsInTile<T, C::m, width> dy_rows{dy_tile, warp_row};
    Sums<C::m, width> dqueries;
    dqueries.clear();

    for (int tile = first_tile; tile < end_tile; ++tile) {
        const TileT keys = slot(ring.next(load)), values{keys.data + kColumns * width};
        const int first_key = tile * kColumns, last_key = first_key + kColumns - 1;
        if (first_key > warp_last || last_key < warp_begin) continue;

        Sums<C::m, kColumns> scores;
        scores.clear();
        multiply_transposed(scores, query_rows, keys);
        scores.map(
            [&](int r, int, float x) { return ptx::exp2_approx(fmaf(op.unit, x, -lse[r])); });
        if (last_key > warp_first || first_key < all_begin)
            scores.map([&](int r, int column, float x) {
                const int key = first_key + column;
                const int query = min(first + warp_row + row_of(r), length - 1);
                return key <= query && key >= begin[r] ? x : 0.0f;
            });
        const auto ds = score_gradient(Factor<T, C::m, kColumns>(scores), dy_rows, values,
                                       [&](int r, int) { return delta[r]; });
        multiply(dqueries, ds, keys);
    }
    dqueries.map([&](int, int, float x) { return op.scale * x; });
    store_rows(dqueries, query_rows, op.dqkv, block.first_row + first + warp_row, block.head,
               length - first - warp_row);
}

template <class Config, class T>
void launch(void (*kernel)(Operands<T>), const Operands<T>& op, int heads, cudaStream_t stream) {
    const HeadLayout& layout = op.layout;
    const int64_t blocks = op.N / layout.T * heads * ceil_div(layout.T, Config::kRows);
    allow_shared_memory(kernel, Config::kBytes);
    kernel<<<grid_of(blocks), Config::kThreads, Config::kBytes, stream>>>(op);
    check_launch(AttentionBackward::name);
}

template <class T>
void differentiate(const AttentionBackward& op, const Stream& s) {
    const int64_t N = op.qkv.shape[0], rows = N * op.heads;
    float* const lse = s.scratch.take<float>(rows);
    float* const delta = s.scratch.take<float>(rows);
    const int all_heads = op.heads + 2 * op.kv_heads;
    const auto dy = heads_of<const T>(op.dy, op.heads);
    const Operands<T> operands = {.dqkv = heads_of<T>(op.dqkv, all_heads),
                                  .dy = as_vectors(dy, N, s),
                                  .qkv = as_vectors(heads_of<const T>(op.qkv, all_heads), N, s),
                                  .lse = lse,
                                  .delta = delta,
                                  .N = N,
                                  .layout = layout_of(op),
                                  .scale = op.scale,
                                  .unit = op.scale * kLog2E};
    const int64_t blocks = ceil_div<int64_t>(N, kWarp) * ceil_div(op.heads, kRowLanes);
    prepare<<<grid_of(blocks), kPrepareThreads, 0, s.stream>>>(
        lse, delta, data_of<float>(op.lse), dy, heads_of<const T>(op.y, op.heads), N, op.heads);
    check_launch(AttentionBackward::name);
    with_width<T>(op.head_size(), [&]<int width>() {
        using Keys = Config<T, width, true>;
        if constexpr (width > 128) {  // both gradients have no room in the registers of a warp
            launch<Keys>(differentiate_keys<T, width, true, false>, operands, op.kv_heads,
                         s.stream);
            launch<Keys>(differentiate_keys<T, width, false, true>, operands, op.kv_heads,
                         s.stream);
        } else {
            launch<Keys>(differentiate_keys<T, width, true, true>, operands, op.kv_heads, s.stream);
        }
        launch<Config<T, width, false>>(differentiate_queries<T, width>, operands, op.heads,
                                        s.stream);
    });
}

}  // namespace

void CudaBackend::execute(const AttentionBackward& op, Queue queue) {
    const Stream s = begin(queue);
    if (op.dqkv.count() == 0) return;
    with_compute_type(op.qkv.dtype, [&]<class T>() { differentiate<T>(op, s); });
}

}  // namespace fomoe
