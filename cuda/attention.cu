// Attention, forward (arXiv 2307.08691): a block owns a tile of queries of one head and streams
// through the tiles of keys and values that they see, with the softmax brought along.
#include <cmath>

#include "cuda/attention_products.cuh"
#include "ops/attention.h"

namespace fomoe {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

// Tiles by element type and width; at most 99 KiB of shared memory.
template <class T, int width>
struct Config {
    static constexpr bool kIsBf16 = sizeof(T) == 2;
    static constexpr int m = width <= 128 ? 2 : 1;  // 16 rows each, of a warp
    static constexpr int kWarps = 4;
    static constexpr int kThreads = kWarps * kWarp;
    static constexpr int kQueries = kWarps * 16 * m;
    static constexpr int kKeys = width == 96 ? 48 : kIsBf16 || width <= 64 ? 64 : 16;
    static constexpr int kSlots = !kIsBf16 || width > 128 ? 2 : width > 64 ? 3 : 4;
    static constexpr bool kKeepQueries = kIsBf16 && width <= 64;  // in registers
    static constexpr int kBytes = (kQueries + kSlots * kKeys) * width * sizeof(T);
};

// Of the rows of a lane. Scores count in powers of 2.
template <int m>
struct Softmax {
    // The top is only raised where it would be passed by a factor of 2^8: sums bear that, and
    // what was summed is seldom brought to a new top.
    static constexpr float kSlack = 8;
    float top[2 * m];
    float sum[2 * m];  // over the columns of this lane

    __device__ __forceinline__ Softmax() {
#pragma unroll
        for (int r = 0; r < 2 * m; ++r) top[r] = -INFINITY, sum[r] = 0;
    }

    // Turns scores into 2^(unit score - top); scores of keys not seen are -infinity.
    template <int columns, int width>
    __device__ __forceinline__ void take(Sums<m, columns>& scores, Sums<m, width>& y, float unit) {
        float highest[2 * m], shrink[2 * m];
#pragma unroll
        for (int r = 0; r < 2 * m; ++r) highest[r] = -INFINITY;
        scores.map([&](int r, int, float x) {
            highest[r] = fmaxf(highest[r], x);
            return x;
        });
        bool raised = false;
#pragma unroll
        for (int r = 0; r < 2 * m; ++r) {
            float& x = highest[r];
            x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
            x = unit * fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
            shrink[r] = 1;
            if (x > top[r] + kSlack) {
                shrink[r] = ptx::exp2_approx(top[r] - x);
                top[r] = x;
                raised = true;
            }
            sum[r] *= shrink[r];
        }
        if (__any_sync(kAllLanes, raised))
            y.map([&](int r, int, float x) { return x * shrink[r]; });
        scores.map([&](int r, int, float x) {
            const float p = ptx::exp2_approx(fmaf(unit, x, top[r] == -INFINITY ? 0.0f : -top[r]));
            sum[r] += p;
            return p;
        });
    }
};

template <class T, int width>
__global__ void __launch_bounds__(Config<T, width>::kThreads, 2)
    attend(Heads<T> y, float* lse, Heads<const T> qkv, HeadLayout layout, float unit) {
    using C = Config<T, width>;
    constexpr int kRows = 16 * C::m, kKeys = C::kKeys;
    extern __shared__ __align__(128) unsigned char shared[];
    T* const memory = reinterpret_cast<T*>(shared);

    // The last queries see the most keys and go first.
    const int length = layout.T, tiles = ceil_div(length, C::kQueries);
    const BlockOfHeads block(layout, layout.heads, tiles);
    const int kv_head = block.head / (layout.heads / layout.kv_heads);
    const int first = (tiles - 1 - block.tile) * C::kQueries;
    const int last = min(first + C::kQueries, length) - 1;
    const int first_tile = layout.first_key(block.first_row, first) / kKeys;
    const int end_tile = last / kKeys + 1;

    // Items: keys, values, keys, values ...
    const auto slot = [&](int i) {
        return Tile<T, width>{memory + (C::kQueries + i * kKeys) * width};
    };
    const auto load = [&](unsigned item) {
        const int tile = first_tile + item / 2;
        if (tile >= end_tile) return;
        load_tile<kKeys, C::kThreads>(
            slot(item % C::kSlots), qkv, block.first_row + tile * kKeys,
            item % 2 ? layout.value_head(kv_head) : layout.key_head(kv_head),
            length - tile * kKeys);
    };
    load_tile<C::kQueries, C::kThreads>(Tile<T, width>{memory}, qkv, block.first_row + first,
                                        block.head, length - first);
    Ring<C::kSlots> ring;
    ring.start(load);

    const int warp_row = threadIdx.x / kWarp * kRows, lane = threadIdx.x % kWarp;
    const int warp_first = first + warp_row;
    // Queries behind the end begin with the last one.
    int begin[2 * C::m];
#pragma unroll
    for (int r = 0; r < 2 * C::m; ++r)
        begin[r] = layout.first_key(block.first_row, min(warp_first + row_of(r), length - 1));

    const RowsInTile<T, C::m, width> rows{{memory}, warp_row};
    Softmax<C::m> softmax;
    Sums<C::m, width> out;
    out.clear();

    const auto stream = [&](const auto& queries, int keys) {
        for (int tile = first_tile;;) {
            const int first_key = tile * kKeys, last_key = first_key + kKeys - 1;
            const bool seen =
                first_key < warp_first + kRows && last_key >= __shfl_sync(kAllLanes, begin[0], 0);
            Sums<C::m, kKeys> scores;
            scores.clear();
            if (seen) multiply_transposed(scores, queries, slot(keys));
            const int values = ring.next(load);
            if (seen) {
                const int last_begin = __shfl_sync(kAllLanes, begin[2 * C::m - 1], kWarp - 1);
                if (last_key > warp_first || first_key < last_begin)
                    scores.map([&](int r, int column, float x) {
                        const int key = first_key + column;
                        return key <= warp_first + row_of(r) && key >= begin[r] ? x : -INFINITY;
                    });
                softmax.take(scores, out, unit);
                multiply(out, Factor<T, C::m, kKeys>(scores), slot(values));
            }
            if (++tile == end_tile) break;
            keys = ring.next(load);
        }
    };
    const int keys = ring.next(load);
    if constexpr (C::kKeepQueries)
        stream(RowsInRegisters<C::m, width>(rows), keys);
    else
        stream(rows, keys);

    const int there = length - warp_first;
    const int64_t first_row = block.first_row + warp_first;
    float share[2 * C::m];
#pragma unroll
    for (int r = 0; r < 2 * C::m; ++r) {
        float sum = softmax.sum[r];
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
        share[r] = 1 / sum;
        if (lane % 4 == 0 && row_of(r) < there)
            lse[(first_row + row_of(r)) * layout.heads + block.head] =
                kLn2 * (softmax.top[r] + log2f(sum));
    }
    out.map([&](int r, int, float x) { return x * share[r]; });
    store_rows(out, rows, y, first_row, block.head, there);
}

template <class T, int width>
void launch(const Attention& op, const Stream& s) {
    using C = Config<T, width>;
    static_assert(C::kBytes <= 99 * 1024);
    const HeadLayout layout = layout_of(op);
    const Heads<const T> qkv =
        as_vectors(heads_of<const T>(op.qkv, op.heads + 2 * op.kv_heads), op.qkv.shape[0], s);
    const int64_t blocks = int64_t{op.sequences} * op.heads * ceil_div(layout.T, C::kQueries);
    allow_shared_memory(attend<T, width>, C::kBytes);
    attend<T, width><<<grid_of(blocks), C::kThreads, C::kBytes, s.stream>>>(
        heads_of<T>(op.y, op.heads), data_of<float>(op.lse), qkv, layout, op.scale * kLog2E);
    check_launch(Attention::name);
}

}  // namespace

void CudaBackend::execute(const Attention& op, Queue queue) {
    const Stream s = begin(queue);
    if (op.y.count() == 0) return;
    with_compute_type(op.qkv.dtype, [&]<class T>() {
        with_width<T>(op.head_size(), [&]<int width>() { launch<T, width>(op, s); });
    });
}

}  // namespace fomoe
