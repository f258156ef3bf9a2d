// Stable sorting into buckets without atomics: a block counts a chunk of the items, warp by warp;
// then every block finds from all the counts where its warps' rows begin.
#pragma once

#include <algorithm>

#include "cuda/device.cuh"

namespace fomoe {

constexpr int kSortWarps = 8;
constexpr int kSortThreads = kSortWarps * kWarp;

// Block b has the items [b chunk, (b + 1) chunk), and each of its warps an equal part of them.
struct Chunks {
    int blocks;
    int rounds;  // a warp takes kWarp items a round
};
inline Chunks chunks_of(int64_t items) {
    constexpr int64_t kBlocks = 64, kRounds = 2;  // blocks at most, rounds at least
    const int64_t rounds = std::max(kRounds, ceil_div(items, kBlocks * kSortThreads));
    const int64_t blocks = std::max<int64_t>(1, ceil_div(items, rounds * kSortThreads));
    return {static_cast<int>(blocks), static_cast<int>(rounds)};
}

// The item of this lane in a round.
__device__ __forceinline__ int64_t item_of(int rounds, int round) {
    const int64_t warp = int64_t{blockIdx.x} * kSortWarps + threadIdx.x / kWarp;
    return (warp * rounds + round) * kWarp + threadIdx.x % kWarp;
}

// Shared memory for the counts of a block's warps.
inline int bucket_bytes(int64_t buckets, const char* op) {
    constexpr int64_t kMost = 96 * 1024 / (kSortWarps * sizeof(int));
    FOMOE_CHECK(buckets <= kMost, op, ": ", buckets, " places to sort to, at most ", kMost);
    return static_cast<int>(kSortWarps * buckets * sizeof(int));
}

__device__ __forceinline__ void clear_counts(int* own, int buckets) {
    for (int i = threadIdx.x; i < kSortWarps * buckets; i += kSortThreads) own[i] = 0;
    __syncthreads();
}

// Writes this block's row of count (blocks, buckets) from its warps' counts, own (kSortWarps,
// buckets).
__device__ __forceinline__ void write_counts(int* count, const int* own, int buckets) {
    __syncthreads();
    for (int s = threadIdx.x; s < buckets; s += kSortThreads) {
        int sum = 0;
        for (int w = 0; w < kSortWarps; ++w) sum += own[w * buckets + s];
        count[int64_t{blockIdx.x} * buckets + s] = sum;
    }
}

// The sum of x over the threads before this one, and over all in `total`.
__device__ __forceinline__ int sum_before(int x, int& total) {
    __shared__ int of_warp[kSortWarps];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int sum = x;
    for (int distance = 1; distance < kWarp; distance *= 2) {
        const int other = __shfl_up_sync(kAllLanes, sum, distance);
        if (lane >= distance) sum += other;
    }
    if (lane == kWarp - 1) of_warp[warp] = sum;
    __syncthreads();
    total = 0;
    int before = sum - x;
    for (int w = 0; w < kSortWarps; ++w) {
        if (w < warp) before += of_warp[w];
        total += of_warp[w];
    }
    __syncthreads();
    return before;
}

// Turns the counts of this block's warps into their first rows: rows are ordered by bucket, then
// block, then warp. Block 0 writes offset (buckets + 1). Returns the number of rows.
__device__ __forceinline__ int find_starts(int* own, const int* count, int buckets, int* offset) {
    __syncthreads();
    int first = 0;  // row of the buckets from `base` on
    for (int base = 0; base < buckets; base += kSortThreads) {
        const int s = base + threadIdx.x;
        int rows = 0, before = 0;
        if (s < buckets) {
#pragma unroll 8
            for (int b = 0; b < static_cast<int>(gridDim.x); ++b) {
                const int here = count[int64_t{b} * buckets + s];
                if (b < static_cast<int>(blockIdx.x)) before += here;
                rows += here;
            }
        }
        int total;
        int start = first + sum_before(rows, total);
        first += total;
        if (s >= buckets) continue;
        if (blockIdx.x == 0) offset[s] = start;
        start += before;
        for (int w = 0; w < kSortWarps; ++w) {
            const int here = own[w * buckets + s];
            own[w * buckets + s] = start;
            start += here;
        }
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) offset[buckets] = first;
    __syncthreads();
    return first;
}

}  // namespace fomoe
