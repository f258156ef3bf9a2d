// What both passes of the router share. A warp takes a token: lane l has the experts l, l + 32, ...
#pragma once

#include "cuda/activation.cuh"
#include "cuda/device.cuh"
#include "ops/router.h"

namespace fomoe {

constexpr int kRouterThreads = 256;
constexpr int kRouterWarps = kRouterThreads / kWarp;
constexpr int64_t kMostExperts = 32 * kWarp;
constexpr int64_t kMostChoices = kWarp;  // lane k has choice k

// How a router turns scores into gates; as in Router.
struct GateRule {
    RouterScore score;
    bool normalize;
    float scale;
    AbsentChoices absent;
    float max_renormalize;
    const float* layer_scale;  // (1) or null

    __device__ float whole_scale() const { return layer_scale ? scale * layer_scale[0] : scale; }
};

template <class AnyRouter>
GateRule gate_rule(const AnyRouter& op) {
    return {.score = op.score,
            .normalize = op.normalize,
            .scale = op.scale,
            .absent = op.absent,
            .max_renormalize = op.max_renormalize,
            .layer_scale = data_of<float>(op.layer_scale)};
}

// gate = scale * weight * score for a choice with a resident expert. The weight follows from S, the
// sum of a token's chosen scores, and P, that of those with a resident expert.
struct GateWeight {
    float weight, log_by_S, log_by_P;  // and the derivatives of its logarithm
    bool absent_too;                   // absent choices have it as well
};

__device__ __forceinline__ GateWeight gate_weight(const GateRule& rule, float S, float P,
                                                  bool any_absent) {
    const float plain = rule.normalize ? 1.0f / S : 1.0f;
    const float plain_by_S = rule.normalize ? -plain : 0.0f;
    if (rule.absent != AbsentChoices::renormalize || !any_absent)
        return {plain, plain_by_S, 0.0f, true};
    if (S >= rule.max_renormalize * P)
        return {rule.max_renormalize * plain, plain_by_S, 0.0f, false};
    const float share = 1.0f / P;
    if (rule.normalize) return {share, 0.0f, -share, false};
    return {S * share, 1.0f / S, -share, false};
}

// The logsumexp of some logits in two parts, so that a difference of two of them is exact.
struct LogSum {
    float top, sum;
    __device__ float value() const { return top + logf(sum); }
    __device__ float minus(const LogSum& other) const {
        return top - other.top + logf(sum / other.sum);
    }
    __device__ float softmax(float logit) const { return expf(logit - top) * (1.0f / sum); }
};

// Sets of a lane's experts, a bit each.
struct LaneExperts {
    uint32_t all, resident, scored;
    bool some_absent;  // and not all, over the whole warp
};

template <int per_lane>
__device__ __forceinline__ LaneExperts lane_experts(const int32_t* resident, int E,
                                                    AbsentChoices absent) {
    LaneExperts out{};
#pragma unroll
    for (int i = 0; i < per_lane; ++i) {
        const int e = i * kWarp + static_cast<int>(threadIdx.x % kWarp);
        if (e >= E) continue;
        out.all |= 1u << i;
        if (resident[e] >= 0) out.resident |= 1u << i;
    }
    out.scored = absent == AbsentChoices::reroute ? out.resident : out.all;
    const int residents = warp_sum(__popc(out.resident));
    out.some_absent = residents > 0 && residents < E;
    return out;
}

// Over the experts of a set.
template <int per_lane>
__device__ __forceinline__ LogSum log_sum(const float (&logit)[per_lane], uint32_t set) {
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < per_lane; ++i)
        if (set >> i & 1) top = fmaxf(top, logit[i]);
    top = warp_max(top);
#pragma unroll
    for (int i = 0; i < per_lane; ++i)
        if (set >> i & 1) sum += expf(logit[i] - top);
    return {top, warp_sum(sum)};
}

// Calls body.template operator()<per_lane>() with the number of experts that a lane needs.
template <class Body>
void with_experts(int64_t E, Body body) {
    if (E <= kWarp) return body.template operator()<1>();
    if (E <= 2 * kWarp) return body.template operator()<2>();
    if (E <= 4 * kWarp) return body.template operator()<4>();
    if (E <= 8 * kWarp) return body.template operator()<8>();
    if (E <= 16 * kWarp) return body.template operator()<16>();
    body.template operator()<32>();
}

}  // namespace fomoe
