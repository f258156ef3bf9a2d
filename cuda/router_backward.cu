// The way back from gates and statistics to the logits, a warp a token.
#include "cuda/router.cuh"

namespace fomoe {
namespace {

struct RoutingBackward {
    float* dlogits;           // (N, E)
    double* by_layer_scale;   // (blocks), dlayer_scale of a block's tokens, or null
    const float* dgate;       // (N, K)
    const int32_t* expert;    // (N, K)
    const int32_t* slot;      // (N, K)
    const float* logits;      // (N, E)
    const int32_t* resident;  // (E)
    const float* dmass;       // (B, E)
    const int32_t* target;    // (N)
    int64_t N, T;
    int E, K;
    GateRule rule;
    float dz, daffinity;
};

// The gradient of a token's scores from its gates: of choice k in lane k.
struct FromGates {
    float dscore;
    float by_layer_scale;  // dlayer_scale of the token, over rule.scale
};

__device__ __forceinline__ FromGates from_gates(const RoutingBackward& a, int64_t n, float score) {
    const int lane = threadIdx.x % kWarp;
    const bool is_choice = lane < a.K;
    const bool served = is_choice && a.slot[n * a.K + lane] >= 0;
    const float dgate = served ? a.dgate[n * a.K + lane] : 0.0f;
    const float S = warp_sum(score), P = warp_sum(served ? score : 0.0f);
    const float weighted = warp_sum(served ? dgate * score : 0.0f);
    const GateWeight by = gate_weight(a.rule, S, P, __any_sync(kAllLanes, is_choice && !served));
    float d = weighted * by.log_by_S;
    if (served) d += dgate + weighted * by.log_by_P;
    return {a.rule.whole_scale() * by.weight * d, by.weight * weighted};
}

template <int per_lane>
__device__ __forceinline__ float dot(const float (&x)[per_lane], const float (&y)[per_lane]) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < per_lane; ++i) sum += x[i] * y[i];
    return warp_sum(sum);
}

template <int per_lane>
__device__ __forceinline__ double token_backward(const RoutingBackward& a, int64_t n, float* row) {
    const int lane = threadIdx.x % kWarp;
    const bool soft = a.rule.score == RouterScore::softmax;
    const LaneExperts experts = lane_experts<per_lane>(a.resident, a.E, a.rule.absent);
    const bool valid = a.target[n] >= 0;
    const float* logits = a.logits + n * a.E;
    float logit[per_lane], score[per_lane], dscore[per_lane];
#pragma unroll
    for (int i = 0; i < per_lane; ++i)
        logit[i] = experts.all >> i & 1 ? logits[i * kWarp + lane] : 0.0f;
    const LogSum scored = log_sum(logit, experts.scored);
    const auto score_of = [&](float x) { return soft ? scored.softmax(x) : sigmoid(x); };

    // Of the choices, passed to the lanes of their experts.
    const int chosen = lane < a.K ? a.expert[n * a.K + lane] : 0;
#pragma unroll
    for (int i = 0; i < per_lane; ++i)
        if (experts.all >> i & 1) row[i * kWarp + lane] = logit[i];
    __syncwarp();
    const FromGates gates = from_gates(a, n, lane < a.K ? score_of(row[chosen]) : 0.0f);
    __syncwarp();
    for (int e = lane; e < a.E; e += kWarp) row[e] = 0;
    __syncwarp();
    if (lane < a.K) row[chosen] = gates.dscore;
    __syncwarp();

    // The balancing loss sees p = score / total; of a softmax the total is 1.
    float total = 0;
#pragma unroll
    for (int i = 0; i < per_lane; ++i) {
        const bool here = experts.scored >> i & 1;
        score[i] = here ? score_of(logit[i]) : 0.0f;
        dscore[i] = here && valid ? a.dmass[n / a.T * a.E + i * kWarp + lane] : 0.0f;
        total += score[i];
    }
    if (valid && !soft) {
        const float share = 1.0f / warp_sum(total), mean = share * dot(dscore, score);
#pragma unroll
        for (int i = 0; i < per_lane; ++i) dscore[i] = share * (dscore[i] - mean);
    }
#pragma unroll
    for (int i = 0; i < per_lane; ++i)
        if (experts.scored >> i & 1) dscore[i] += row[i * kWarp + lane];

    const float mean = soft ? dot(dscore, score) : 0.0f;
    const float z = valid ? 2.0f * a.dz * scored.value() : 0.0f;
    const bool affinity = valid && a.daffinity != 0 && experts.some_absent;
    LogSum everybody{}, residents{};
    if (affinity) {
        everybody = log_sum(logit, experts.all);
        residents = log_sum(logit, experts.resident);
    }
#pragma unroll
    for (int i = 0; i < per_lane; ++i) {
        if (!(experts.all >> i & 1)) continue;
        float d = 0;
        if (experts.scored >> i & 1)
            d = soft ? score[i] * (dscore[i] - mean) + z * score[i]
                     : dscore[i] * score[i] * (1.0f - score[i]) + z * scored.softmax(logit[i]);
        if (affinity) {
            float share = everybody.softmax(logit[i]);
            if (experts.resident >> i & 1) share -= residents.softmax(logit[i]);
            d += a.daffinity * share;
        }
        a.dlogits[n * a.E + i * kWarp + lane] = d;
    }
    return double{a.rule.scale} * gates.by_layer_scale;
}

template <int per_lane>
__global__ void __launch_bounds__(kRouterThreads) route_backward(const RoutingBackward a) {
    extern __shared__ float rows[];  // (warps, E)
    __shared__ double part[kRouterWarps];
    const int warp = threadIdx.x / kWarp;
    const int64_t n = int64_t{blockIdx.x} * kRouterWarps + warp;
    double by_layer_scale = 0;
    if (n < a.N) by_layer_scale = token_backward<per_lane>(a, n, rows + warp * a.E);
    if (!a.by_layer_scale) return;
    if (threadIdx.x % kWarp == 0) part[warp] = by_layer_scale;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < kRouterWarps; ++w) by_layer_scale += part[w];
    a.by_layer_scale[blockIdx.x] = by_layer_scale;
}

// sum += the sum of the n parts; one block.
__global__ void __launch_bounds__(kRouterThreads) add_parts(float* sum, const double* part, int n) {
    double own = 0;
    for (int i = threadIdx.x; i < n; i += kRouterThreads) own += part[i];
    own = block_sum<kRouterThreads>(own);
    if (threadIdx.x == 0) *sum = static_cast<float>(*sum + own);
}

}  // namespace

void CudaBackend::execute(const RouterBackward& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t N = op.logits.shape[0], E = op.logits.shape[1], K = op.expert.shape[1];
    FOMOE_CHECK(E <= kMostExperts && K <= kMostChoices, op.name, ": top_k ", K, " of ", E,
                " experts; at most ", kMostChoices, " of ", kMostExperts);
    if (N == 0) return;
    const int64_t blocks = ceil_div<int64_t>(N, kRouterWarps);
    const RoutingBackward a{
        .dlogits = data_of<float>(op.dlogits),
        .by_layer_scale = op.dlayer_scale ? s.scratch.take<double>(blocks) : nullptr,
        .dgate = data_of<float>(op.dgate),
        .expert = data_of<int32_t>(op.expert),
        .slot = data_of<int32_t>(op.slot),
        .logits = data_of<float>(op.logits),
        .resident = data_of<int32_t>(op.resident),
        .dmass = data_of<float>(op.dmass),
        .target = data_of<int32_t>(op.target),
        .N = N,
        .T = N / op.dmass.shape[0],
        .E = static_cast<int>(E),
        .K = static_cast<int>(K),
        .rule = gate_rule(op),
        .dz = op.dz,
        .daffinity = op.daffinity};
    with_experts(E, [&]<int per_lane>() {
        route_backward<per_lane>
            <<<blocks, kRouterThreads, kRouterWarps * E * sizeof(float), s.stream>>>(a);
    });
    check_launch("route_backward");
    if (!op.dlayer_scale) return;
    add_parts<<<1, kRouterThreads, 0, s.stream>>>(data_of<float>(op.dlayer_scale), a.by_layer_scale,
                                                  static_cast<int>(blocks));
    check_launch("add_parts");
}

}  // namespace fomoe
