// The parameters of a rank as tensors, layer by layer.
#pragma once

#include <vector>

#include "model/frozen.h"

namespace fomoe {

// Weights have the type that ops read: f32, and with bf16 activations bf16 where C stands.
// Gradients are f32.
//
// Empty where the model has no such weight. F' is the hidden size of the layer's dense MLP or of
// its shared experts together; U as in ops/op.h. W = (A + 2 KV) Dh.
struct LayerViews {
    Tensor input_norm;    // (D)
    Tensor qkv;           // C (W, D): q_proj, k_proj, v_proj
    Tensor q_norm;        // (Dh) or (A Dh)
    Tensor k_norm;        // (Dh) or (KV Dh)
    Tensor output;        // C (D, A Dh)
    Tensor post_norm;     // (D)
    Tensor mlp_in;        // C (U F', D)
    Tensor mlp_out;       // C (D, F')
    Tensor router;        // (E, D)
    Tensor router_bias;   // (E)
    Tensor routed_scale;  // (1) of the gates, in a calibration
    Tensor experts;  // C the stretch of the arena in which this rank's experts of the layer lie
    std::vector<int64_t> expert_offset;  // in `experts`, by slot in the shard
    Tensor frozen;                       // the same of the frozen experts, bf16
    std::vector<int64_t> frozen_offset;  // in `frozen`, by slot behind the others
    int64_t n_experts() const { return std::ssize(expert_offset) + std::ssize(frozen_offset); }
};

struct ModelViews {
    Tensor embedding;   // C (V, D)
    Tensor final_norm;  // (D)
    Tensor head;        // C (V, D); the embedding when they are tied
    std::vector<LayerViews> layers;
};

// arena (layout.size()) of one type, or its dense section alone: then no experts are bound.
ModelViews model_views(const ModelConfig& model, const ArenaLayout& layout, Tensor arena);
// The weights: from `values` f32, but those of matmuls from `rounded` bf16 if there is one.
ModelViews weight_views(const ModelConfig& model, const ArenaLayout& layout, Tensor values,
                        Tensor rounded);
// Adds the frozen experts; copies (layout.size) bf16.
void add_frozen_views(const ModelConfig& model, const FrozenLayout& layout, Tensor copies,
                      ModelViews& views);

}  // namespace fomoe
