// The router: scores and choice of a token by a warp, statistics in two stages.
#include "cuda/router.cuh"

namespace fomoe {
namespace {

// Tokens of a sequence that a block takes, and whose statistics are summed in f32.
constexpr int kTokens = 32;

// Numbers of a block's statistics, whole sectors.
__host__ __device__ constexpr int partial_size(int E) { return ceil_div(2 * E + 2, 8) * 8; }

struct Routing {
    float* gate;              // (N, K)
    int32_t* expert;          // (N, K)
    int32_t* slot;            // (N, K)
    float* partial;           // (B, blocks, partial_size(E)): count, mass, z, affinity
    const float* logits;      // (N, E)
    const float* bias;        // (E) or null
    const int32_t* resident;  // (E)
    const int32_t* target;    // (N)
    int64_t T;
    int E, K;
    int blocks;  // of a sequence
    GateRule rule;
};

// Rises with x, never 0, the same for both zeros. NaN comes last, so that it is chosen and seen.
__device__ __forceinline__ uint32_t order_of(float x) {
    if (isnan(x)) return 0xffffffffu;
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The best expert of a lane that is not taken yet.
struct Best {
    uint32_t order = 0;  // 0: there is none
    uint32_t expert = 0xffffffffu;
    float score = 0;
};

template <int per_lane>
__device__ __forceinline__ Best best_of(const float (&score)[per_lane],
                                        const float (&bias)[per_lane], uint32_t open) {
    Best best;
#pragma unroll
    for (int i = 0; i < per_lane; ++i) {
        const uint32_t order = order_of(score[i] + bias[i]);
        if ((open >> i & 1) && order > best.order)
            best = {order, i * kWarp + threadIdx.x % kWarp, score[i]};
    }
    return best;
}

// Without a number of blocks ptxas spills registers of many experts to let two fit.
template <int per_lane>
__global__ void __launch_bounds__(kRouterThreads, per_lane > 8 ? 1 : 2) route(const Routing a) {
    extern __shared__ int shared_count[];  // (E), and what follows
    __shared__ float warp_z[kRouterWarps], warp_affinity[kRouterWarps];
    float* shared_mass = reinterpret_cast<float*>(shared_count + a.E);  // (E)
    int* shared_resident = shared_count + 2 * a.E;                      // (E)
    // (3, kTokens, K): experts, slots and gates of the block's tokens, to be written side by side.
    int* shared_choice = shared_resident + a.E;
    const int choices = kTokens * a.K;
    for (int e = threadIdx.x; e < a.E; e += kRouterThreads) {
        shared_count[e] = 0;
        shared_mass[e] = 0;
        shared_resident[e] = a.resident[e];
    }
    __syncthreads();

    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const bool soft = a.rule.score == RouterScore::softmax;
    const bool reroute = a.rule.absent == AbsentChoices::reroute;
    const float scale = a.rule.whole_scale();
    const LaneExperts experts = lane_experts<per_lane>(a.resident, a.E, a.rule.absent);
    float bias[per_lane], mass[per_lane] = {};
#pragma unroll
    for (int i = 0; i < per_lane; ++i)
        bias[i] = a.bias && (experts.all >> i & 1) ? a.bias[i * kWarp + lane] : 0.0f;
    float z = 0, affinity = 0;
    const int64_t sequence = blockIdx.x / a.blocks;
    const int64_t begin = int64_t{blockIdx.x % a.blocks} * kTokens;
    const int64_t end = min(begin + kTokens, a.T);
    for (int64_t t = begin + warp; t < end; t += kRouterWarps) {
        const int64_t n = sequence * a.T + t;
        const bool valid = a.target[n] >= 0;
        float score[per_lane];
#pragma unroll
        for (int i = 0; i < per_lane; ++i)
            score[i] = experts.all >> i & 1 ? a.logits[n * a.E + i * kWarp + lane] : 0.0f;
        const LogSum scored = log_sum(score, experts.scored);
        if (valid && experts.some_absent) {
            const LogSum other = log_sum(score, reroute ? experts.all : experts.resident);
            affinity += reroute ? other.minus(scored) : scored.minus(other);
        }
        if (valid) z += scored.value() * scored.value();
        float sum = 0;
#pragma unroll
        for (int i = 0; i < per_lane; ++i) {
            const bool here = experts.scored >> i & 1;
            score[i] = !here ? 0.0f : soft ? scored.softmax(score[i]) : sigmoid(score[i]);
            sum += score[i];
        }
        if (valid) {
            const float share = soft ? 1.0f : 1.0f / warp_sum(sum);
#pragma unroll
            for (int i = 0; i < per_lane; ++i) mass[i] += share * score[i];
        }

        // Among equals the lowest id, which is why each lane offers its lowest.
        uint32_t open = experts.scored;
        Best best = best_of(score, bias, open);
        int chosen = 0;
        float gate = 0;
        for (int k = 0; k < a.K; ++k) {
            const uint32_t order = __reduce_max_sync(kAllLanes, best.order);
            if (order == 0) __trap();  // fewer experts than choices
            const int winner = static_cast<int>(
                __reduce_min_sync(kAllLanes, best.order == order ? best.expert : 0xffffffffu));
            const float won = __shfl_sync(kAllLanes, best.score, winner % kWarp);
            if (lane == k) {
                chosen = winner;
                gate = won;
            }
            if (lane == winner % kWarp) {
                open &= ~(1u << winner / kWarp);
                best = best_of(score, bias, open);
            }
        }
        const bool is_choice = lane < a.K;
        const int slot = is_choice ? max(shared_resident[chosen], -1) : 0;
        const float S = warp_sum(gate), P = warp_sum(slot >= 0 ? gate : 0.0f);
        const GateWeight by =
            gate_weight(a.rule, S, P, __any_sync(kAllLanes, is_choice && slot < 0));
        if (!is_choice) continue;
        const int at = static_cast<int>(t - begin) * a.K + lane;
        shared_choice[at] = chosen;
        shared_choice[choices + at] = slot;
        shared_choice[2 * choices + at] =
            __float_as_int(slot >= 0 || by.absent_too ? gate * (scale * by.weight) : 0.0f);
        if (valid) atomicAdd(&shared_count[chosen], 1);
    }

    // Over the warps, one after the other.
    if (lane == 0) {
        warp_z[warp] = z;
        warp_affinity[warp] = affinity;
    }
    for (int w = 0; w < kRouterWarps; ++w) {
        if (w == warp) {
#pragma unroll
            for (int i = 0; i < per_lane; ++i)
                if (experts.all >> i & 1) shared_mass[i * kWarp + lane] += mass[i];
        }
        __syncthreads();
    }
    const int64_t first = (sequence * a.T + begin) * a.K;
    for (int i = threadIdx.x; i < (end - begin) * a.K; i += kRouterThreads) {
        a.expert[first + i] = shared_choice[i];
        a.slot[first + i] = shared_choice[choices + i];
        a.gate[first + i] = __int_as_float(shared_choice[2 * choices + i]);
    }
    float* partial = a.partial + int64_t{blockIdx.x} * partial_size(a.E);
    for (int e = threadIdx.x; e < a.E; e += kRouterThreads) {
        partial[e] = static_cast<float>(shared_count[e]);
        partial[a.E + e] = shared_mass[e];
    }
    if (threadIdx.x != 0) return;
    for (int w = 1; w < kRouterWarps; ++w) {
        z += warp_z[w];
        affinity += warp_affinity[w];
    }
    partial[2 * a.E] = z;
    partial[2 * a.E + 1] = affinity;
}

struct Statistics {
    float* count;          // (B, E)
    float* mass;           // (B, E)
    float* z;              // (B)
    float* affinity;       // (B)
    const float* partial;  // (B, blocks, partial_size(E))
    int E;
    int blocks;
    int64_t columns;  // B partial_size(E)
};

// Over the blocks of a sequence: every kGroups-th by a thread, then over the groups in order.
constexpr int kGroups = 8;

__global__ void __launch_bounds__(kGroups* kWarp) sum_statistics(const Statistics a) {
    __shared__ double part[kGroups][kWarp];
    const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
    const int width = partial_size(a.E);
    const int64_t b = column / width;
    const int i = static_cast<int>(column - b * width);
    double sum = 0;
    if (column < a.columns && i < 2 * a.E + 2) {
        const float* partial = a.partial + b * a.blocks * width + i;
#pragma unroll 4
        for (int block = threadIdx.y; block < a.blocks; block += kGroups)
            sum += partial[int64_t{block} * width];
    }
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= a.columns || i >= 2 * a.E + 2) return;
    for (int group = 1; group < kGroups; ++group) sum += part[group][threadIdx.x];
    float* to = i < a.E        ? a.count + b * a.E + i
                : i < 2 * a.E  ? a.mass + b * a.E + i - a.E
                : i == 2 * a.E ? a.z + b
                               : a.affinity + b;
    *to = static_cast<float>(sum);
}

}  // namespace

void CudaBackend::execute(const Router& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t N = op.logits.shape[0], E = op.logits.shape[1], K = op.gate.shape[1];
    const int64_t B = op.count.shape[0], T = N / B, blocks = ceil_div<int64_t>(T, kTokens);
    FOMOE_CHECK(E <= kMostExperts && K <= kMostChoices, op.name, ": top_k ", K, " of ", E,
                " experts; at most ", kMostChoices, " of ", kMostExperts);
    const int64_t columns = B * partial_size(static_cast<int>(E));
    const int64_t shared = (3 * E + 3 * kTokens * K) * sizeof(float);
    const Routing a{.gate = data_of<float>(op.gate),
                    .expert = data_of<int32_t>(op.expert),
                    .slot = data_of<int32_t>(op.slot),
                    .partial = s.scratch.take<float>(columns * blocks),
                    .logits = data_of<float>(op.logits),
                    .bias = data_of<float>(op.bias),
                    .resident = data_of<int32_t>(op.resident),
                    .target = data_of<int32_t>(op.target),
                    .T = T,
                    .E = static_cast<int>(E),
                    .K = static_cast<int>(K),
                    .blocks = static_cast<int>(blocks),
                    .rule = gate_rule(op)};
    if (N > 0)
        with_experts(E, [&]<int per_lane>() {
            route<per_lane><<<B * blocks, kRouterThreads, shared, s.stream>>>(a);
        });
    check_launch("route");
    const Statistics sums{.count = data_of<float>(op.count),
                          .mass = data_of<float>(op.mass),
                          .z = data_of<float>(op.z),
                          .affinity = data_of<float>(op.affinity),
                          .partial = a.partial,
                          .E = a.E,
                          .blocks = a.blocks,
                          .columns = columns};
    sum_statistics<<<ceil_div<int64_t>(columns, kWarp), dim3(kWarp, kGroups), 0, s.stream>>>(sums);
    check_launch("sum_statistics");
}

}  // namespace fomoe
