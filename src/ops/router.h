// The choice of experts, and the statistics that balance it. All in f32.
#pragma once

#include "ops/op.h"

namespace fomoe {

enum class RouterScore { softmax, sigmoid };

// What becomes of a choice whose expert the group does not hold (resident[e] < 0: absent).
enum class AbsentChoices {
    skip,         // it contributes nothing
    renormalize,  // and the gates of the others grow by what it had
    reroute       // there are none: residents alone are scored and chosen
};

// Scores s = softmax(logits) or sigmoid(logits), over all E experts; with `reroute` over the
// residents, of which there are at least K, and nothing but `affinity` reads the other logits. The
// K experts with the largest s + bias are chosen, in falling order; ties: the lower expert id wins.
// The bias chooses and does not weigh:
//   gate = scale * s[chosen], with `normalize` divided by the sum of the K chosen s (all of them,
//   also those of absent experts).
// An absent choice gets slot -1. With `renormalize` its gate is 0, and those of the token's other
// choices are multiplied by min(S / P, max_renormalize), where S is the sum of all K chosen s and P
// that of those with a resident expert. With layer_scale every gate is multiplied by it at last.
// p = s / (sum of s) is the router probability of the balancing loss, with `reroute` 0 for absent
// experts, and z that of the logits that are scored. affinity is minus the log of the softmax mass,
// over all E, on the residents; 0 when all experts or none are resident. Statistics are taken over
// valid tokens (target >= 0), by sequence.
struct Router {
    static constexpr const char* name = "router";
    Tensor gate;              // (N, K)
    Tensor expert;            // (N, K) i32, global ids
    Tensor slot;              // (N, K) i32, index among residents or -1
    Tensor count;             // (B, E) f32, choices of valid tokens
    Tensor mass;              // (B, E) f32, sum of p
    Tensor z;                 // (B) f32, sum of logsumexp(logits)^2
    Tensor affinity;          // (B) f32, sum of -log(mass on residents)
    ConstTensor logits;       // (N, E)
    ConstTensor bias;         // (E) or empty
    ConstTensor resident;     // (E) i32, slot of each expert or -1
    ConstTensor target;       // (N) i32, negative: not a valid token
    ConstTensor layer_scale;  // (1) or empty
    RouterScore score = RouterScore::softmax;
    bool normalize = true;
    float scale = 1.0f;
    AbsentChoices absent = AbsentChoices::skip;
    float max_renormalize = 2.0f;

    static auto operands(auto& op) {
        return std::tie(op.gate, op.expert, op.slot, op.count, op.mass, op.z, op.affinity,
                        op.logits, op.bias, op.resident, op.target, op.layer_scale);
    }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        const int64_t N = logits.shape[0], E = logits.shape[1], K = gate.shape[1];
        const int64_t B = count.shape[0];
        FOMOE_CHECK(0 < K && K <= E, name, ": top_k ", K, " of ", E, " experts");
        FOMOE_CHECK(B > 0 && N % B == 0, name, ": ", N, " rows, ", B, " sequences");
        require(name, "logits", logits, DType::f32, Shape(N, E));
        require(name, "gate", gate, DType::f32, Shape(N, K));
        require(name, "expert", expert, DType::i32, Shape(N, K));
        require(name, "slot", slot, DType::i32, Shape(N, K));
        require(name, "count", count, DType::f32, Shape(B, E));
        require(name, "mass", mass, DType::f32, Shape(B, E));
        require(name, "z", z, DType::f32, Shape(B));
        require(name, "affinity", affinity, DType::f32, Shape(B));
        require_or_empty(name, "bias", bias, DType::f32, Shape(E));
        require(name, "resident", resident, DType::i32, Shape(E));
        require(name, "target", target, DType::i32, Shape(N));
        require_or_empty(name, "layer_scale", layer_scale, DType::f32, Shape(1));
    }
};

// dlogits from four sources: the gates, the balancing loss (dmass: its gradient with respect to p
// of any valid token of a sequence), the z-loss (dz: with respect to a valid token's logsumexp^2),
// and the affinity (daffinity: with respect to a valid token's -log(mass on residents)). dgate of a
// choice with slot -1 is taken as 0; the Jacobians of score, normalisation and renormalisation are
// applied in full, so that S still leads to the scores of absent choices. dlayer_scale is the sum
// over the choices with slot >= 0 of dgate times what the gate would be without layer_scale.
struct RouterBackward {
    static constexpr const char* name = "router_backward";
    Tensor dlogits;           // (N, E)
    Tensor dlayer_scale;      // (1) += or empty; only with layer_scale
    ConstTensor dgate;        // (N, K)
    ConstTensor expert;       // (N, K) i32
    ConstTensor slot;         // (N, K) i32
    ConstTensor logits;       // (N, E)
    ConstTensor resident;     // (E) i32, as in Router
    ConstTensor dmass;        // (B, E)
    ConstTensor target;       // (N) i32
    ConstTensor layer_scale;  // (1) or empty, as in Router
    RouterScore score = RouterScore::softmax;
    bool normalize = true;
    float scale = 1.0f;
    AbsentChoices absent = AbsentChoices::skip;
    float max_renormalize = 2.0f;
    float dz = 0.0f;
    float daffinity = 0.0f;

    static auto operands(auto& op) {
        return std::tie(op.dlogits, op.dlayer_scale, op.dgate, op.expert, op.slot, op.logits,
                        op.resident, op.dmass, op.target, op.layer_scale);
    }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        const int64_t N = logits.shape[0], E = logits.shape[1], K = expert.shape[1];
        const int64_t B = dmass.shape[0];
        FOMOE_CHECK(B > 0 && N % B == 0, name, ": ", N, " rows, ", B, " sequences");
        require(name, "logits", logits, DType::f32, Shape(N, E));
        require(name, "dlogits", dlogits, DType::f32, Shape(N, E));
        require(name, "dgate", dgate, DType::f32, Shape(N, K));
        require(name, "expert", expert, DType::i32, Shape(N, K));
        require(name, "slot", slot, DType::i32, Shape(N, K));
        require(name, "resident", resident, DType::i32, Shape(E));
        require(name, "dmass", dmass, DType::f32, Shape(B, E));
        require(name, "target", target, DType::i32, Shape(N));
        require_or_empty(name, "layer_scale", layer_scale, DType::f32, Shape(1));
        require_or_empty(name, "dlayer_scale", dlayer_scale, DType::f32, Shape(1));
        FOMOE_CHECK(layer_scale || !dlayer_scale, name, ": dlayer_scale without layer_scale");
    }
};

// The balancing loss of a layer, its gradient, and the counts it goes by. With f_e the share of the
// choices that went to expert e, and C the number of experts that can be chosen,
//   loss = sum over sequences and experts of C f_e mass_e;   dmass = weight * C f_e,
// so that even routing costs 1 per token.
// f is given (E), or without it that of each sequence: count / (sum of count over E).
struct Balance {
    static constexpr const char* name = "balance";
    Tensor dmass;          // (B, E)
    Tensor load;           // (E) +=, count summed over sequences
    Tensor loss;           // (3) f64 +=: the loss, the sum of z, the sum of affinity
    ConstTensor count;     // (B, E), as in Router, and so are mass, z and affinity
    ConstTensor mass;      // (B, E)
    ConstTensor z;         // (B)
    ConstTensor affinity;  // (B)
    ConstTensor fraction;  // (E) or empty
    int experts = 0;       // C: E, or the residents where only they are chosen
    float weight = 0.0f;

    static auto operands(auto& op) {
        return std::tie(op.dmass, op.load, op.loss, op.count, op.mass, op.z, op.affinity,
                        op.fraction);
    }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        const int64_t B = count.shape[0], E = count.shape[1];
        FOMOE_CHECK(0 < experts && experts <= E, name, ": ", experts, " of ", E, " experts");
        require(name, "count", count, DType::f32, Shape(B, E));
        require(name, "mass", mass, DType::f32, Shape(B, E));
        require(name, "z", z, DType::f32, Shape(B));
        require(name, "affinity", affinity, DType::f32, Shape(B));
        require(name, "dmass", dmass, DType::f32, Shape(B, E));
        require(name, "load", load, DType::f32, Shape(E));
        require(name, "loss", loss, DType::f64, Shape(3));
        require_or_empty(name, "fraction", fraction, DType::f32, Shape(E));
    }
};

}  // namespace fomoe
