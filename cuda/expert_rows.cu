// Sorts the choices by slot, and sums the rows of a token.
#include "cuda/buckets.cuh"
#include "cuda/expert_rows.cuh"
#include "cuda/rows.cuh"

namespace fomoe {
namespace {

constexpr int kThreads = 256;

// Lanes of this warp with the same slot.
struct Peers {
    int before;  // lanes below this one
    int all;
    bool first;
};
__device__ __forceinline__ Peers peers_of(int slot) {
    const unsigned mask = __match_any_sync(kAllLanes, slot);
    const int before = __popc(mask & ((1u << threadIdx.x % kWarp) - 1));
    return {before, __popc(mask), before == 0};
}

// count (blocks, R): the choices of each slot in a block's chunk.
__global__ void __launch_bounds__(kSortThreads)
    count_choices(int* count, const int32_t* slot, int64_t choices, int R, int rounds) {
    extern __shared__ int own[];  // (kSortWarps, R)
    clear_counts(own, R);
    int* mine = own + threadIdx.x / kWarp * R;
    for (int round = 0; round < rounds; ++round) {
        const int64_t i = item_of(rounds, round);
        const int s = i < choices ? slot[i] : -1;
        const Peers peers = peers_of(s);
        if (s >= 0 && peers.first) mine[s] += peers.all;
        __syncwarp();
    }
    write_counts(count, own, R);
}

struct Sorting {
    int32_t* choice;
    int32_t* offset;
    RowMaps maps;
    const int* count;
    const int32_t* slot;
    int64_t choices;
    int R, K, rounds;
};

__global__ void __launch_bounds__(kSortThreads) place_choices(const Sorting a) {
    extern __shared__ int own[];  // (kSortWarps, R): counts, then each warp's next row
    clear_counts(own, a.R);
    int* mine = own + threadIdx.x / kWarp * a.R;
    for (int round = 0; round < a.rounds; ++round) {
        const int64_t i = item_of(a.rounds, round);
        const int s = i < a.choices ? a.slot[i] : -1;
        const Peers peers = peers_of(s);
        if (s >= 0 && peers.first) mine[s] += peers.all;
        __syncwarp();
    }
    find_starts(own, a.count, a.R, a.offset);
    for (int round = 0; round < a.rounds; ++round) {
        const int64_t i = item_of(a.rounds, round);
        const int s = i < a.choices ? a.slot[i] : -1;
        const Peers peers = peers_of(s);
        const int row = s >= 0 ? mine[s] + peers.before : -1;
        __syncwarp();
        if (s >= 0 && peers.first) mine[s] += peers.all;
        __syncwarp();
        if (i < a.choices) a.maps.row_of[i] = row;
        if (row < 0) continue;
        a.choice[row] = static_cast<int32_t>(i);
        a.maps.token[row] = static_cast<int32_t>(i / a.K);
    }
}

__global__ void __launch_bounds__(kThreads)
    invert(const RowMaps maps, const int32_t* slot, const int32_t* choice, const int32_t* rows,
           int64_t choices, int K) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= choices) return;
    if (slot[i] < 0) maps.row_of[i] = -1;
    if (i >= *rows) return;
    maps.row_of[choice[i]] = static_cast<int32_t>(i);
    maps.token[i] = choice[i] / K;
}

template <class T, class Row>
struct Returning {
    T* y;
    const Row* rows;
    const int32_t* row_of;
    const float* gate;
    int64_t N, K, D;
    bool accumulate;
};

// A row of threads takes a token.
template <class T, class Row, int width>
__global__ void __launch_bounds__(kThreads) sum_rows(const Returning<T, Row> a) {
    const int64_t n = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
    if (n >= a.N) return;
    for (int64_t d = threadIdx.x * width; d < a.D; d += blockDim.x * width) {
        float sum[width] = {};
        if (a.accumulate) load(sum, a.y + n * a.D + d);
        for (int64_t i = n * a.K; i < (n + 1) * a.K; ++i) {
            const int row = a.row_of[i];
            if (row < 0) continue;
            const float gate = a.gate ? a.gate[i] : 1.0f;
            float x[width];
            load(x, a.rows + row * a.D + d);
#pragma unroll
            for (int j = 0; j < width; ++j) sum[j] = fmaf(gate, x[j], sum[j]);
        }
        store(a.y + n * a.D + d, sum);
    }
}

template <class T, class Row>
void launch_sum_rows(const ReturnRows& op, const Stream& s) {
    const int64_t N = op.y.shape[0], D = op.y.shape[1];
    if (N == 0 || D == 0) return;
    const Returning<T, Row> a{
        data_of<T>(op.y), data_of<Row>(op.rows), op.row_of, op.gate, N, op.K, D, op.accumulate};
    with_width<Row>(fits_wide<Row>(D, {a.y, a.rows}), [&]<int width>() {
        int along = 8;  // threads along a token
        while (along < kThreads && along * width < D) along *= 2;
        const dim3 threads(along, kThreads / along);
        const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(N, threads.y));
        sum_rows<T, Row, width><<<blocks, threads, 0, s.stream>>>(a);
    });
    check_launch("sum_rows");
}

template <class AnyExperts>
RowMaps take_maps(const AnyExperts& op, const Stream& s) {
    return {.row_of = s.scratch.take<int32_t>(op.slot.count()),
            .token = s.scratch.take<int32_t>(op.choice.count())};
}

}  // namespace

RowMaps sort_choices(const ExpertsForward& op, const Stream& s) {
    const int64_t choices = op.slot.count(), R = op.expert_offset.shape[0];
    const Chunks chunks = chunks_of(choices);
    const int shared = bucket_bytes(R, op.name);
    int* count = s.scratch.take<int>(chunks.blocks * R);
    const Sorting a{.choice = data_of<int32_t>(op.choice),
                    .offset = data_of<int32_t>(op.offset),
                    .maps = take_maps(op, s),
                    .count = count,
                    .slot = data_of<int32_t>(op.slot),
                    .choices = choices,
                    .R = static_cast<int>(R),
                    .K = static_cast<int>(op.slot.shape[1]),
                    .rounds = chunks.rounds};
    allow_shared(count_choices, shared);
    count_choices<<<chunks.blocks, kSortThreads, shared, s.stream>>>(count, a.slot, choices, a.R,
                                                                     a.rounds);
    check_launch("count_choices");
    allow_shared(place_choices, shared);
    place_choices<<<chunks.blocks, kSortThreads, shared, s.stream>>>(a);
    check_launch("place_choices");
    return a.maps;
}

RowMaps invert_choices(const ExpertsBackward& op, const Stream& s) {
    const int64_t choices = op.slot.count(), R = op.expert_offset.shape[0];
    const RowMaps maps = take_maps(op, s);
    if (choices == 0) return maps;
    invert<<<static_cast<unsigned>(ceil_div<int64_t>(choices, kThreads)), kThreads, 0, s.stream>>>(
        maps, data_of<int32_t>(op.slot), data_of<int32_t>(op.choice),
        data_of<int32_t>(op.offset) + R, choices, static_cast<int>(op.slot.shape[1]));
    check_launch("invert");
    return maps;
}

void return_rows(const ReturnRows& op, const Stream& s) {
    with_compute_type(op.y.dtype, [&]<class T>() {
        if (op.rows.dtype == op.y.dtype)
            launch_sum_rows<T, T>(op, s);
        else
            launch_sum_rows<T, float>(op, s);
    });
}

}  // namespace fomoe
