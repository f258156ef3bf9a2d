#include "model/attention_block.h"

#include <cmath>

namespace fomoe {
namespace {

float attention_scale(const ModelConfig& model) {
    return 1.0f / std::sqrt(static_cast<float>(model.head_size()));
}

}  // namespace

void attention_forward(const BlockContext& context, const LayerViews& weights,
                       LayerActivations& layer, const Activations& shared, Tensor out) {
    const ModelConfig& model = context.model;
    Backend& backend = context.backend;
    const Tensor projected = layer.qkv_raw ? layer.qkv_raw : layer.qkv;
    backend.run(Linear{.y = projected, .x = layer.normed1, .weight = weights.qkv});
    backend.run(Rope{
        .qkv = layer.qkv,
        .rstd = layer.qk_rstd,
        .x = projected,
        .q_weight = weights.q_norm,
        .k_weight = weights.k_norm,
        .position = shared.position,
        .heads = model.n_heads,
        .kv_heads = model.n_kv_heads,
        .rotary_size = model.rotary_size(),
        .theta = static_cast<float>(model.rope_theta),
        .eps = static_cast<float>(model.norm_eps),
    });
    if (layer.cache)
        backend.run(CachedAttention{
            .y = layer.attended,
            .cache = layer.cache,
            .qkv = layer.qkv,
            .sequence = shared.sequence,
            .position = shared.position,
            .heads = model.n_heads,
            .kv_heads = model.n_kv_heads,
            .scale = attention_scale(model),
        });
    else
        backend.run(Attention{
            .y = layer.attended,
            .lse = layer.lse,
            .qkv = layer.qkv,
            .begin = shared.begin,
            .sequences = context.shape.sequences,
            .heads = model.n_heads,
            .kv_heads = model.n_kv_heads,
            .scale = attention_scale(model),
        });
    backend.run(Linear{.y = out, .x = layer.attended, .weight = weights.output});
}

void attention_backward(const BlockContext& context, const LayerViews& weights,
                        const LayerViews& gradients, const LayerActivations& layer,
                        const Activations& shared, ConstTensor dout, Tensor dnormed) {
    const ModelConfig& model = context.model;
    Backend& backend = context.backend;
    backend.run(LinearBackward{
        .dx = shared.dattended,
        .dweight = gradients.output,
        .dy = dout,
        .x = layer.attended,
        .weight = weights.output,
    });
    backend.run(AttentionBackward{
        .dqkv = shared.dqkv,
        .dy = shared.dattended,
        .y = layer.attended,
        .lse = layer.lse,
        .qkv = layer.qkv,
        .begin = shared.begin,
        .sequences = context.shape.sequences,
        .heads = model.n_heads,
        .kv_heads = model.n_kv_heads,
        .scale = attention_scale(model),
    });
    backend.run(RopeBackward{
        .dx = shared.dqkv,
        .dq_weight = gradients.q_norm,
        .dk_weight = gradients.k_norm,
        .dqkv = shared.dqkv,
        .x = layer.qkv_raw,
        .rstd = layer.qk_rstd,
        .q_weight = weights.q_norm,
        .k_weight = weights.k_norm,
        .position = shared.position,
        .heads = model.n_heads,
        .kv_heads = model.n_kv_heads,
        .rotary_size = model.rotary_size(),
        .theta = static_cast<float>(model.rope_theta),
    });
    backend.run(LinearBackward{
        .dx = dnormed,
        .dweight = gradients.qkv,
        .dy = shared.dqkv,
        .x = layer.normed1,
        .weight = weights.qkv,
    });
}

}  // namespace fomoe
