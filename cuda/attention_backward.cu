// Attention, backward: the probabilities are computed again from the kept logsumexp. Blocks that
// own keys stream through the queries that see them, those that own queries through the keys: the
// scores are computed twice, and nobody adds to what others own.
#include <cmath>

#include "cuda/attention_tiles.cuh"
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
    T* dqkv;             // (N, (A + 2 KV) Dh)
    const T* dy;         // (N, A Dh)
    const T* qkv;        // (N, (A + 2 KV) Dh)
    const float* lse;    // (A, N), counting in powers of 2
    const float* delta;  // (A, N), dy . y
    int64_t N;
    HeadLayout layout;
    float scale;
    float unit;  // of scores, in powers of 2
};

// lse and delta by head, so that those of neighbouring queries are neighbours. Eight lanes a row.
constexpr int kPrepareThreads = 256;
constexpr int kRowLanes = 8;
template <class T>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare(float* lse_by_head, float* delta_by_head, const float* lse, const T* dy, const T* y,
            int64_t N, HeadLayout layout) {
    constexpr int step = 16 / sizeof(T);
    const int64_t i = (int64_t{blockIdx.x} * kPrepareThreads + threadIdx.x) / kRowLanes;
    const int lane = threadIdx.x % kRowLanes, size = layout.head_size;
    float dot = 0;
    if (i < N * layout.heads) {
        const T *a = dy + i * size, *b = y + i * size;
        if (layout.vectors) {
            for (int d = step * lane; d < size; d += step * kRowLanes) {
                const auto u = *reinterpret_cast<const Vec<T, step>*>(a + d);
                const auto v = *reinterpret_cast<const Vec<T, step>*>(b + d);
#pragma unroll
                for (int e = 0; e < step; ++e) dot += to_float(u.at[e]) * to_float(v.at[e]);
            }
        } else {
            for (int d = lane; d < size; d += kRowLanes) dot += to_float(a[d]) * to_float(b[d]);
        }
    }
#pragma unroll
    for (int distance = kRowLanes / 2; distance > 0; distance /= 2)
        dot += __shfl_xor_sync(kAllLanes, dot, distance);
    if (lane == 0 && i < N * layout.heads) {
        const int64_t at = i % layout.heads * N + i / layout.heads;
        lse_by_head[at] = kLog2E * lse[i];
        delta_by_head[at] = dot;
    }
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
    const int T_ = layout.T, size = layout.head_size, group = layout.heads / layout.kv_heads;
    const BlockOfHeads block(layout, layout.kv_heads, ceil_div(T_, C::kRows));
    const int first = block.tile * C::kRows, last = min(first + C::kRows, T_) - 1;
    const int64_t stride = layout.row(), dy_stride = int64_t{layout.heads} * size;
    const T* const sequence = op.qkv + block.first_row * stride;

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
    const int first_head = block.head * group, end_head = first_head + group;
    int next_head = first_head, next_tile = first_tile;
    const auto load = [&](unsigned item) {
        const int head = next_head, i = next_tile * kColumns, there = T_ - i;
        if (head == end_head) return;
        if (++next_tile == end_tile) {
            next_tile = first_tile;
            ++next_head;
        }
        const int64_t row = block.first_row + i;
        const Slot to = slot(item % C::kSlots);
        load_tile<kColumns, C::kThreads>(to.query,
                                         op.qkv + row * stride + layout.query_column(head), stride,
                                         there, size, layout.vectors);
        load_tile<kColumns, C::kThreads>(to.dy, op.dy + row * dy_stride + layout.query_column(head),
                                         dy_stride, there, size, layout.vectors);
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

    const T* const owned = sequence + first * stride;
    load_tile<C::kRows, C::kThreads>(key_tile, owned + layout.key_column(block.head), stride,
                                     T_ - first, size, layout.vectors);
    load_tile<C::kRows, C::kThreads>(value_tile, owned + layout.value_column(block.head), stride,
                                     T_ - first, size, layout.vectors);
    Ring<C::kSlots> ring;
    ring.start(load);

    const int warp_row = threadIdx.x / kWarp * 16 * C::m, lane = threadIdx.x % kWarp;
    const int warp_first = first + warp_row, warp_last = warp_first + 16 * C::m - 1;
    const RowsInTile<T, C::m, width> key_rows{key_tile, warp_row};
    const RowsInTile<T, C::m, width> value_rows{value_tile, warp_row};
    Sums<C::m, keys ? width : 8> dkeys;
    Sums<C::m, values ? width : 8> dvalues;
    dkeys.clear();
    dvalues.clear();

    const int items = group * (end_tile - first_tile);
    for (int item = 0, tile = first_tile; item < items; ++item) {
        const Slot from = slot(ring.next(load));
        const int i = tile * kColumns;
        if (++tile == end_tile) tile = first_tile;
        const int final = min(kColumns, T_ - i) - 1;  // the last column with a query
        const auto begin = [&](int column) {
            return layout.begin ? max(0, min(from.begin[column], i + column)) : 0;
        };
        if (i + final < warp_first || begin(0) > warp_last) continue;

        Sums<C::m, kColumns> p;
        p.clear();
        multiply_transposed(p, key_rows, from.query);
        // Queries behind the end are all 0, and so is what they add.
        p.map([&](int, int column, float x) {
            return ptx::exp2_approx(fmaf(op.unit, x, -from.lse[column]));
        });
        if (i < warp_last || begin(final) > warp_first)
            p.map([&](int r, int column, float x) {
                const int key = warp_first + row_of(r);
                return key <= i + column && key >= begin(column) ? x : 0.0f;
            });
        if constexpr (values) multiply(dvalues, p, from.dy);
        if constexpr (keys) {
            Sums<C::m, kColumns> ds;
            ds.clear();
            multiply_transposed(ds, value_rows, from.dy);
#pragma unroll
            for (int a = 0; a < C::m; ++a)
#pragma unroll
                for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        ds.at[a][n][e] =
                            p.at[a][n][e] *
                            (ds.at[a][n][e] - from.delta[8 * n + 2 * (lane % 4) + e % 2]);
            multiply(dkeys, ds, from.query);
        }
    }

    const int there = T_ - warp_first;
    T* const to = op.dqkv + (block.first_row + warp_first) * stride;
    if constexpr (keys) {
        dkeys.map([&](int, int, float x) { return op.scale * x; });
        store_rows(dkeys, key_rows, to + layout.key_column(block.head), stride, there, size,
                   layout.vectors);
    }
    if constexpr (values)
        store_rows(dvalues, value_rows, to + layout.value_column(block.head), stride, there, size,
                   layout.vectors);
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
    const int T_ = layout.T, size = layout.head_size, tiles = ceil_div(T_, C::kRows);
    const BlockOfHeads block(layout, layout.heads, tiles);
    const int kv_head = block.head / (layout.heads / layout.kv_heads);
    const int first = (tiles - 1 - block.tile) * C::kRows, last = min(first + C::kRows, T_) - 1;
    const int64_t stride = layout.row(), dy_stride = int64_t{layout.heads} * size;
    const int64_t query_column = layout.query_column(block.head);
    const T* const sequence = op.qkv + block.first_row * stride;
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
        const T* const from = sequence + j * stride;
        const TileT to = slot(item % C::kSlots);
        load_tile<kColumns, C::kThreads>(to, from + layout.key_column(kv_head), stride, T_ - j,
                                         size, layout.vectors);
        load_tile<kColumns, C::kThreads>(TileT{to.data + kColumns * width},
                                         from + layout.value_column(kv_head), stride, T_ - j, size,
                                         layout.vectors);
    };
    load_tile<C::kRows, C::kThreads>(query_tile, sequence + first * stride + query_column, stride,
                                     T_ - first, size, layout.vectors);
    load_tile<C::kRows, C::kThreads>(dy_tile,
                                     op.dy + (block.first_row + first) * dy_stride + query_column,
                                     dy_stride, T_ - first, size, layout.vectors);
    Ring<C::kSlots> ring;
    ring.start(load);

    const int warp_row = threadIdx.x / kWarp * 16 * C::m;
    const int warp_first = min(first + warp_row, T_ - 1);
    const int warp_last = min(first + warp_row + 16 * C::m, T_) - 1;
    const int warp_begin = layout.first_key(block.first_row, warp_first);
    const int all_begin = layout.first_key(block.first_row, warp_last);
    // Queries behind the end repeat the last one.
    int begin[2 * C::m];
    float lse[2 * C::m], delta[2 * C::m];
#pragma unroll
    for (int r = 0; r < 2 * C::m; ++r) {
        const int query = min(first + warp_row + row_of(r), T_ - 1);
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

        Sums<C::m, kColumns> p, ds;
        p.clear();
        multiply_transposed(p, query_rows, keys);
        p.map([&](int r, int, float x) { return ptx::exp2_approx(fmaf(op.unit, x, -lse[r])); });
        if (last_key > warp_first || first_key < all_begin)
            p.map([&](int r, int column, float x) {
                const int key = first_key + column;
                const int query = min(first + warp_row + row_of(r), T_ - 1);
                return key <= query && key >= begin[r] ? x : 0.0f;
            });
        ds.clear();
        multiply_transposed(ds, dy_rows, values);
#pragma unroll
        for (int i = 0; i < C::m; ++i)
#pragma unroll
            for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    ds.at[i][n][e] = p.at[i][n][e] * (ds.at[i][n][e] - delta[2 * i + e / 2]);
        multiply(dqueries, ds, keys);
    }
    dqueries.map([&](int, int, float x) { return op.scale * x; });
    store_rows(dqueries, query_rows,
               op.dqkv + (block.first_row + first + warp_row) * stride + query_column, stride,
               T_ - first - warp_row, size, layout.vectors);
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
    const Operands<T> operands = {.dqkv = data_of<T>(op.dqkv),
                                  .dy = data_of<T>(op.dy),
                                  .qkv = data_of<T>(op.qkv),
                                  .lse = lse,
                                  .delta = delta,
                                  .N = N,
                                  .layout = layout_of<T>(op),
                                  .scale = op.scale,
                                  .unit = op.scale * kLog2E};
    prepare<<<grid_of(ceil_div<int64_t>(rows, kPrepareThreads / kRowLanes)), kPrepareThreads, 0,
              s.stream>>>(lse, delta, data_of<float>(op.lse), operands.dy, data_of<T>(op.y), N,
                          operands.layout);
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
