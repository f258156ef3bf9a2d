#include "model/activations.h"

#include <algorithm>

namespace fomoe {

Activations lay_out_activations(const ModelConfig& model, const BatchShape& shape, Arena& arena) {
    const MoeConfig& moe = model.moe;
    const int64_t B = shape.sequences, N = shape.tokens(), EP = shape.expert_parallel;
    const int64_t D = model.d_model, A = model.n_heads, KV = model.n_kv_heads;
    const int64_t Dh = model.head_size(), W = (A + 2 * KV) * Dh;
    const int64_t E = moe.n_experts, K = moe.top_k, F = moe.d_expert, R = shape.shard_experts;
    const int64_t U = moe.expert == ExpertKind::swiglu ? 2 : 1;
    const int64_t sent = N * std::min(K, EP);  // rows that leave
    const int64_t rows = shape.rows(), choices = shape.choices(moe);
    const int64_t F_shared = int64_t(moe.n_shared_experts) * F;
    const int64_t F_mlp = std::max<int64_t>(F_shared, moe.first_dense_layers ? moe.d_dense : 0);

    auto compute = [&](auto... dims) { return arena.take(shape.dtype, Shape(dims...)); };
    auto f32 = [&](auto... dims) { return arena.take(DType::f32, Shape(dims...)); };
    auto i32 = [&](auto... dims) { return arena.take(DType::i32, Shape(dims...)); };

    Activations a;
    for (int l = 0; l < model.n_layers; ++l) {
        LayerActivations& layer = a.layers.emplace_back();
        layer.sum1 = compute(N, D);
        layer.rstd1 = f32(N);
        layer.normed1 = compute(N, D);
        layer.qkv = compute(N, W);
        if (model.qk_norm != QkNorm::none) {
            layer.qkv_raw = compute(N, W);
            layer.qk_rstd = model.qk_norm == QkNorm::head ? f32(N, A + KV) : f32(N, 2);
        }
        layer.attended = compute(N, A * Dh);
        layer.lse = f32(N, A);
        layer.sum2 = compute(N, D);
        layer.rstd2 = f32(N);
        layer.normed2 = compute(N, D);
        const bool dense = l < moe.first_dense_layers;
        if (dense || F_shared) layer.mlp_hidden = compute(N, U * (dense ? moe.d_dense : F_shared));
        if (dense) continue;
        layer.logits = f32(N, E);
        layer.gate = f32(N, K);
        layer.expert = i32(N, K);
        layer.slot = i32(N, K);
        layer.dmass = f32(B, E);
        layer.hidden = compute(choices, U * F);
        layer.choice = i32(choices);
        layer.offset = i32(R + 1);
        if (EP == 1) continue;
        layer.send_offset = i32(2 * EP + 1);
        layer.counts = i32(EP, 2 * EP + 1);
        layer.send_token = i32(sent);
        layer.position = i32(N, EP);
        layer.row_x = compute(rows, D);
        layer.row_gate = f32(rows, K);
        layer.row_slot = i32(rows, K);
    }
    a.token = i32(N);
    a.target = i32(N);
    a.position = i32(N);
    if (shape.document_mask) a.begin = i32(N);
    if (shape.cached) a.sequence = i32(N);
    a.last_sum = compute(N, D);
    a.last_rstd = f32(N);
    a.last_normed = compute(N, D);
    a.loss = f32(N);

    a.stream = compute(N, D);
    a.dstream = compute(N, D);
    a.dnormed = compute(N, D);
    a.dqkv = compute(N, W);
    a.dattended = compute(N, A * Dh);
    if (F_mlp) {
        a.mlp_act = compute(N, F_mlp);
        a.dmlp_act = compute(N, F_mlp);
        a.dmlp_hidden = compute(N, U * F_mlp);
    }
    a.count = f32(B, E);
    a.mass = f32(B, E);
    a.z = f32(B);
    a.affinity = f32(B);
    a.dgate = f32(N, K);
    a.dlogits = f32(N, E);
    if (EP > 1) {
        a.send_x = compute(sent, D);
        a.send_gate = f32(sent, K);
        a.send_slot = i32(sent, K);
        a.row_y = compute(rows, D);
        a.row_dy = compute(rows, D);
        a.row_dgate = f32(rows, K);
    }
    return a;
}

}  // namespace fomoe
