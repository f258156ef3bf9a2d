// FLOPs of the model's matmuls, the numerator of MFU. Multiplications and additions count each;
// a backward pass costs twice its forward pass.
#pragma once

#include "config/config.h"

namespace fomoe {

struct FlopsPerToken {
    double always = 0;      // without routed experts
    double per_choice = 0;  // one (token, expert) pair
    double of(double executed_choices) const { return always + per_choice * executed_choices; }
};

// In a forward pass a token costs 2 * (weights of the matmuls that see every token) + 2 A Dh (T +
// 1) in each layer's causal attention, and each of its executed choices 2 * (weights of one
// expert).
inline FlopsPerToken forward_flops_per_token(const ModelConfig& model, int seq_len) {
    const MoeConfig& moe = model.moe;
    const double D = model.d_model, Dh = model.head_size(), A = model.n_heads;
    const double matrices = moe.expert == ExpertKind::swiglu ? 3 : 2;
    const double attention = D * (A + 2 * model.n_kv_heads) * Dh + A * Dh * D;
    double weights = D * model.vocab_size;
    for (int l = 0; l < model.n_layers; ++l) {
        weights += attention;
        if (l < moe.first_dense_layers)
            weights += matrices * D * moe.d_dense;
        else
            weights += moe.n_experts * D + moe.n_shared_experts * matrices * D * moe.d_expert;
    }
    return {.always = 2 * weights + 2 * model.n_layers * A * Dh * (seq_len + 1.0),
            .per_choice = 2 * matrices * D * moe.d_expert};
}

// Forward and backward.
inline FlopsPerToken flops_per_token(const ModelConfig& model, int seq_len) {
    const FlopsPerToken forward = forward_flops_per_token(model, seq_len);
    return {.always = 3 * forward.always, .per_choice = 3 * forward.per_choice};
}

}  // namespace fomoe
