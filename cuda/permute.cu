// Rows of tokens by destination rank, and back.
#include "cuda/buckets.cuh"
#include "cuda/expert_rows.cuh"
#include "cuda/rows.cuh"
#include "ops/permute.h"

namespace fomoe {
namespace {

constexpr int kThreads = 256;

struct Plan {
    int32_t* offset;
    int32_t* token;
    int32_t* row_slot;
    int32_t* position;
    // (blocks, 2 Q): the tokens of a block's chunk that go to each destination, and the choices.
    int* count;
    const int32_t* slot;
    const int32_t* first_slot;
    int64_t N, M;
    int K, Q, rounds;
};

// The slot at destination q of choice i, or -1.
__device__ __forceinline__ int slot_there(const Plan& a, int64_t i, int q) {
    const int s = a.slot[i], first = a.first_slot[q];
    return s >= first && s < a.first_slot[q + 1] ? s - first : -1;
}
__device__ __forceinline__ int choices_at(const Plan& a, int64_t n, int q) {
    int choices = 0;
    if (n < a.N)
        for (int k = 0; k < a.K; ++k) choices += slot_there(a, n * a.K + k, q) >= 0;
    return choices;
}

// The tokens of this warp that go to each destination, then their choices.
__device__ __forceinline__ void count_tokens(const Plan& a, int* mine) {
    for (int round = 0; round < a.rounds; ++round) {
        const int64_t n = item_of(a.rounds, round);
        for (int q = 0; q < a.Q; ++q) {
            const int choices = choices_at(a, n, q);
            const int going = __popc(__ballot_sync(kAllLanes, choices > 0));
            const int all = __reduce_add_sync(kAllLanes, choices);
            if (threadIdx.x % kWarp > 0) continue;
            mine[q] += going;
            mine[a.Q + q] += all;
        }
    }
}

__global__ void __launch_bounds__(kSortThreads) count_destinations(const Plan a) {
    extern __shared__ int own[];  // (kSortWarps, 2 Q)
    clear_counts(own, 2 * a.Q);
    count_tokens(a, own + threadIdx.x / kWarp * 2 * a.Q);
    write_counts(a.count, own, 2 * a.Q);
}

// Without a number of blocks ptxas spills registers to let eight fit.
__global__ void __launch_bounds__(kSortThreads, 4) place_tokens(const Plan a) {
    extern __shared__ int own[];  // (kSortWarps, 2 Q): counts, then each warp's next row
    clear_counts(own, 2 * a.Q);
    const int lane = threadIdx.x % kWarp;
    int* mine = own + threadIdx.x / kWarp * 2 * a.Q;
    count_tokens(a, mine);
    find_starts(own, a.count, 2 * a.Q, a.offset);
    int rows = own[a.Q];  // where the choices begin, and those of the blocks before
    for (int b = 0; b < static_cast<int>(blockIdx.x); ++b) rows -= a.count[(2 * b + 1) * a.Q];
    for (int round = 0; round < a.rounds; ++round) {
        const int64_t n = item_of(a.rounds, round);
        for (int q = 0; q < a.Q; ++q) {
            const bool goes = choices_at(a, n, q) > 0;
            const unsigned going = __ballot_sync(kAllLanes, goes);
            const int first = mine[q];
            const int64_t row = first + __popc(going & ((1u << lane) - 1));
            __syncwarp();
            if (lane == 0) mine[q] += __popc(going);
            __syncwarp();
            if (n < a.N) a.position[n * a.Q + q] = goes ? static_cast<int32_t>(row) : -1;
            if (goes) a.token[row] = static_cast<int32_t>(n);
            __syncwarp();
            // The warp's rows are neighbours, and so are the choices that it writes at once.
#pragma unroll 1
            for (int i = lane; i < __popc(going) * a.K; i += kWarp) {
                const int64_t from = a.token[first + i / a.K];
                a.row_slot[int64_t{first} * a.K + i] = slot_there(a, from * a.K + i % a.K, q);
            }
        }
    }
    const int64_t threads = int64_t{gridDim.x} * kSortThreads;
    const int64_t thread = int64_t{blockIdx.x} * kSortThreads + threadIdx.x;
    for (int64_t m = rows + thread; m < a.M; m += threads) a.token[m] = -1;
    for (int64_t i = int64_t{rows} * a.K + thread; i < a.M * a.K; i += threads) a.row_slot[i] = -1;
}

// Unit: what a thread moves at once.
template <class Unit>
__global__ void __launch_bounds__(kThreads)
    gather(Unit* y, const Unit* x, const int32_t* index, int64_t M, int64_t units) {
    const int64_t m = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
    if (m >= M) return;
    const Unit* from = x + index[m] * units;
    for (int64_t i = threadIdx.x; i < units; i += blockDim.x) y[m * units + i] = from[i];
}

template <class Unit>
void launch_gather(const Permute& op, const Stream& s) {
    const int64_t M = op.y.shape[0];
    if (op.y.bytes() == 0) return;
    const int64_t units = op.y.bytes() / M / int64_t{sizeof(Unit)};
    int along = 1;  // threads along a row
    while (along < kThreads && along < units) along *= 2;
    const dim3 threads(along, kThreads / along);
    gather<<<static_cast<unsigned>(ceil_div<int64_t>(M, threads.y)), threads, 0, s.stream>>>(
        data_of<Unit>(op.y), data_of<Unit>(op.x), data_of<int32_t>(op.index), M, units);
    check_launch("gather");
}

}  // namespace

void CudaBackend::execute(const DispatchPlan& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t N = op.slot.shape[0], Q = op.position.shape[1];
    const Chunks chunks = chunks_of(N);
    const int shared = bucket_bytes(2 * Q, op.name);
    const Plan a{.offset = data_of<int32_t>(op.offset),
                 .token = data_of<int32_t>(op.token),
                 .row_slot = data_of<int32_t>(op.row_slot),
                 .position = data_of<int32_t>(op.position),
                 .count = s.scratch.take<int>(chunks.blocks * 2 * Q),
                 .slot = data_of<int32_t>(op.slot),
                 .first_slot = data_of<int32_t>(op.first_slot),
                 .N = N,
                 .M = op.token.shape[0],
                 .K = static_cast<int>(op.slot.shape[1]),
                 .Q = static_cast<int>(Q),
                 .rounds = chunks.rounds};
    allow_shared(count_destinations, shared);
    count_destinations<<<chunks.blocks, kSortThreads, shared, s.stream>>>(a);
    check_launch("count_destinations");
    allow_shared(place_tokens, shared);
    place_tokens<<<chunks.blocks, kSortThreads, shared, s.stream>>>(a);
    check_launch("place_tokens");
}

void CudaBackend::execute(const Permute& op, Queue queue) {
    const Stream s = begin(queue);
    with_compute_type(op.x.dtype, [&]<class T>() {
        if (fits_wide<T>(op.x.shape[1], {op.y.data, op.x.data}))
            launch_gather<int4>(op, s);
        else
            launch_gather<T>(op, s);
    });
}

void CudaBackend::execute(const Combine& op, Queue queue) {
    return_rows({.y = op.y,
                 .rows = op.x,
                 .row_of = data_of<int32_t>(op.position),
                 .gate = nullptr,
                 .K = op.position.shape[1],
                 .accumulate = op.accumulate},
                begin(queue));
}

}  // namespace fomoe
