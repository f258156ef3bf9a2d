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
    int* warp_count;  // (blocks, kSortWarps, 2 Q): the same by warp
    const int32_t* slot;
    const int32_t* first_slot;
    int64_t N, M;
    int K, Q, rounds;
};

// Where number i lies in shared memory, so that 32 lanes touch different banks with neighbours and
// with every 2nd, 4th, 8th, ... number. Also the room for i of them.
__host__ __device__ constexpr int apart(int i) { return i + i / kWarp; }

constexpr int kTogether = 8;  // destinations whose positions are written side by side

// A warp's 32 tokens in shared memory.
struct WarpTokens {
    int* choice;    // (kWarp, K), slots in the group
    int* going;     // (kWarp), the lanes whose tokens go to a destination
    int* position;  // (kWarp, kTogether)

    __host__ __device__ static constexpr int size(int K) {
        return apart(kWarp * K) + kWarp + apart(kWarp * kTogether);
    }
    __device__ WarpTokens(int* memory, int K) {
        choice = memory + threadIdx.x / kWarp * size(K);
        going = choice + apart(kWarp * K);
        position = going + kWarp;
    }
    // Reads the choices of the tokens from `first` on.
    __device__ __forceinline__ void load(const Plan& a, int64_t first) const {
        const int64_t count = min(int64_t{kWarp}, a.N - first) * a.K;
        __syncwarp();
        for (int i = threadIdx.x % kWarp; i < count; i += kWarp)
            choice[apart(i)] = a.slot[first * a.K + i];
        __syncwarp();
    }
};

// The slots of a destination.
struct Destination {
    int first, end;

    __device__ Destination(const Plan& a, int q)
        : first(a.first_slot[q]), end(a.first_slot[q + 1]) {}
    // The slot there of one of the group, or -1.
    __device__ __forceinline__ int slot(int s) const {
        return s >= first && s < end ? s - first : -1;
    }
    // How many choices of the lane's token go there.
    __device__ __forceinline__ int choices(const WarpTokens& tokens, int K) const {
        int count = 0;
        for (int k = 0; k < K; ++k)
            count += slot(tokens.choice[apart(threadIdx.x % kWarp * K + k)]) >= 0;
        return count;
    }
};

// The tokens of this warp that go to each destination, then their choices.
__device__ __forceinline__ void count_tokens(const Plan& a, const WarpTokens& tokens, int* mine) {
    const int lane = threadIdx.x % kWarp;
    for (int round = 0; round < a.rounds; ++round) {
        const int64_t n = item_of(a.rounds, round);
        tokens.load(a, n - lane);
        for (int q = 0; q < a.Q; ++q) {
            const int choices = n < a.N ? Destination(a, q).choices(tokens, a.K) : 0;
            const int going = __popc(__ballot_sync(kAllLanes, choices > 0));
            const int all = __reduce_add_sync(kAllLanes, choices);
            if (lane > 0) continue;
            mine[q] += going;
            mine[a.Q + q] += all;
        }
    }
}

__global__ void __launch_bounds__(kSortThreads) count_destinations(const Plan a) {
    extern __shared__ int own[];  // (kSortWarps, 2 Q), then the warps' tokens
    const WarpTokens tokens(own + kSortWarps * 2 * a.Q, a.K);
    clear_counts(own, 2 * a.Q);
    count_tokens(a, tokens, own + threadIdx.x / kWarp * 2 * a.Q);
    write_counts(a.count, own, 2 * a.Q);
    for (int i = threadIdx.x; i < kSortWarps * 2 * a.Q; i += kSortThreads)
        a.warp_count[int64_t{blockIdx.x} * kSortWarps * 2 * a.Q + i] = own[i];
}

// Rows of a warp's tokens to destination q, which begin at `first`. Returns the next row.
__device__ __forceinline__ int place_at(const Plan& a, const WarpTokens& tokens, int64_t n, int q,
                                        int first, int* position) {
    const int lane = threadIdx.x % kWarp;
    const Destination to(a, q);
    const bool goes = n < a.N && to.choices(tokens, a.K) > 0;
    const unsigned going = __ballot_sync(kAllLanes, goes);
    const int before = __popc(going & ((1u << lane) - 1)), rows = __popc(going);
    *position = goes ? first + before : -1;
    if (goes) {
        tokens.going[before] = lane;
        a.token[first + before] = static_cast<int32_t>(n);
    }
    __syncwarp();
    // The warp's rows are neighbours, and so are the choices that it writes at once.
#pragma unroll 1
    for (int i = lane; i < rows * a.K; i += kWarp)
        a.row_slot[int64_t{first} * a.K + i] =
            to.slot(tokens.choice[apart(tokens.going[i / a.K] * a.K + i % a.K)]);
    __syncwarp();
    return first + rows;
}

// Without a number of blocks ptxas spills registers to let eight fit.
__global__ void __launch_bounds__(kSortThreads, 4) place_tokens(const Plan a) {
    extern __shared__ int own[];  // (kSortWarps, 2 Q): counts, then each warp's next row; tokens
    const WarpTokens tokens(own + kSortWarps * 2 * a.Q, a.K);
    for (int i = threadIdx.x; i < kSortWarps * 2 * a.Q; i += kSortThreads)
        own[i] = a.warp_count[int64_t{blockIdx.x} * kSortWarps * 2 * a.Q + i];
    const int lane = threadIdx.x % kWarp;
    int* mine = own + threadIdx.x / kWarp * 2 * a.Q;
    find_starts(own, a.count, 2 * a.Q, a.offset);
    int rows = own[a.Q];  // where the choices begin, and those of the blocks before
    for (int b = 0; b < static_cast<int>(blockIdx.x); ++b) rows -= a.count[(2 * b + 1) * a.Q];
    for (int round = 0; round < a.rounds; ++round) {
        const int64_t n = item_of(a.rounds, round), first = n - lane;
        tokens.load(a, first);
        for (int begin = 0; begin < a.Q; begin += kTogether) {
            const int together = min(kTogether, a.Q - begin);
            for (int q = 0; q < together; ++q) {
                const int next = place_at(a, tokens, n, begin + q, mine[begin + q],
                                          &tokens.position[apart(lane * together + q)]);
                if (lane == 0) mine[begin + q] = next;
            }
            __syncwarp();
            const int64_t count = min(int64_t{kWarp}, a.N - first) * together;
            for (int i = lane; i < count; i += kWarp)
                a.position[(first + i / together) * a.Q + begin + i % together] =
                    tokens.position[apart(i)];
            __syncwarp();
        }
    }
    const int64_t threads = int64_t{gridDim.x} * kSortThreads;
    const int64_t thread = int64_t{blockIdx.x} * kSortThreads + threadIdx.x;
    // From whole sectors on.
    const auto clear = [&](int32_t* x, int64_t begin, int64_t end) {
        for (int64_t i = begin / 8 * 8 + thread; i < end; i += threads)
            if (i >= begin) x[i] = -1;
    };
    clear(a.token, rows, a.M);
    clear(a.row_slot, int64_t{rows} * a.K, a.M * a.K);
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
    const int64_t K = op.slot.shape[1];
    FOMOE_CHECK(K <= kWarp, op.name, ": top_k ", K, ", at most ", kWarp);
    const int shared = bucket_bytes(2 * Q, op.name) +
                       kSortWarps * WarpTokens::size(static_cast<int>(K)) * int{sizeof(int)};
    const Plan a{.offset = data_of<int32_t>(op.offset),
                 .token = data_of<int32_t>(op.token),
                 .row_slot = data_of<int32_t>(op.row_slot),
                 .position = data_of<int32_t>(op.position),
                 .count = s.scratch.take<int>(chunks.blocks * 2 * Q),
                 .warp_count = s.scratch.take<int>(chunks.blocks * kSortWarps * 2 * Q),
                 .slot = data_of<int32_t>(op.slot),
                 .first_slot = data_of<int32_t>(op.first_slot),
                 .N = N,
                 .M = op.token.shape[0],
                 .K = static_cast<int>(K),
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
