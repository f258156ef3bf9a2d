#include "model/views.h"

#include <algorithm>
#include <map>
#include <utility>

namespace fomoe {
namespace {

class Binder {
public:
    Binder(const ArenaLayout& layout, Tensor arena) : arena_(arena) {
        for (const Parameter& p : layout.parameters) by_name_[p.name] = &p;
    }

    // The parameter's values under another shape: a stack of neighbours that starts with it.
    Tensor stack(const std::string& name, Shape shape) const {
        const auto found = by_name_.find(name);
        if (found == by_name_.end()) return {};
        return arena_.slice(found->second->offset, shape.count()).reshaped(shape);
    }
    Tensor one(const std::string& name) const {
        const auto found = by_name_.find(name);
        return found == by_name_.end() ? Tensor{} : stack(name, found->second->shape);
    }

private:
    Tensor arena_;
    std::map<std::string, const Parameter*> by_name_;
};

// The stretch of an arena in which experts of a layer lie, each from its first matrix on.
struct Stretch {
    Tensor memory;
    std::vector<int64_t> offset;  // in `memory`, by expert in rising order
};

std::vector<Stretch> expert_stretches(const ModelConfig& model,
                                      const std::vector<Parameter>& parameters, Tensor arena) {
    const int64_t expert_size = (model.moe.expert == ExpertKind::swiglu ? 3 : 2) *
                                int64_t(model.moe.d_expert) * model.d_model;
    std::vector<std::map<int, int64_t>> first(model.n_layers);  // expert -> offset
    for (const Parameter& p : parameters)
        if (p.cls == ParamClass::expert) first[p.layer].try_emplace(p.expert, p.offset);
    std::vector<Stretch> layers;
    for (const std::map<int, int64_t>& experts : first) {
        int64_t begin = experts.empty() ? 0 : INT64_MAX, end = 0;
        for (const auto& [expert, offset] : experts) {
            begin = std::min(begin, offset);
            end = std::max(end, offset + expert_size);
        }
        Stretch& layer = layers.emplace_back();
        layer.memory = arena.slice(begin, end - begin);
        for (const auto& [expert, offset] : experts) layer.offset.push_back(offset - begin);
    }
    return layers;
}

}  // namespace

ModelViews model_views(const ModelConfig& model, const ArenaLayout& layout, Tensor arena) {
    const Binder bind(layout, arena);
    const int64_t D = model.d_model;
    const int64_t W = int64_t(model.n_heads + 2 * model.n_kv_heads) * model.head_size();
    const int64_t U = model.moe.expert == ExpertKind::swiglu ? 2 : 1;

    ModelViews views;
    views.embedding = bind.one("model.embed_tokens.weight");
    views.final_norm = bind.one("model.norm.weight");
    views.head = model.tie_embeddings ? views.embedding : bind.one("lm_head.weight");
    for (int l = 0; l < model.n_layers; ++l) {
        const std::string at = "model.layers." + std::to_string(l);
        const bool dense = l < model.moe.first_dense_layers;
        const std::string mlp = at + (dense ? ".mlp" : ".mlp.shared_experts");
        const int64_t F =
            dense ? model.moe.d_dense : int64_t(model.moe.n_shared_experts) * model.moe.d_expert;
        views.layers.push_back({
            .input_norm = bind.one(at + ".input_layernorm.weight"),
            .qkv = bind.stack(at + ".self_attn.q_proj.weight", Shape(W, D)),
            .q_norm = bind.one(at + ".self_attn.q_norm.weight"),
            .k_norm = bind.one(at + ".self_attn.k_norm.weight"),
            .output = bind.one(at + ".self_attn.o_proj.weight"),
            .post_norm = bind.one(at + ".post_attention_layernorm.weight"),
            .mlp_in = bind.stack(mlp + (U == 2 ? ".gate_proj.weight" : ".up_proj.weight"),
                                 Shape(U * F, D)),
            .mlp_out = bind.one(mlp + ".down_proj.weight"),
            .router = bind.one(at + ".mlp.gate.weight"),
            .router_bias = bind.one(at + ".mlp.gate.e_score_correction_bias"),
            .routed_scale = bind.one(routed_scale_name(l)),
        });
    }
    if (arena.count() < layout.size()) return views;
    std::vector<Stretch> experts = expert_stretches(model, layout.parameters, arena);
    for (int l = 0; l < model.n_layers; ++l) {
        views.layers[l].experts = experts[l].memory;
        views.layers[l].expert_offset = std::move(experts[l].offset);
    }
    return views;
}

ModelViews weight_views(const ModelConfig& model, const ArenaLayout& layout, Tensor values,
                        Tensor rounded) {
    ModelViews views = model_views(model, layout, values);
    if (!rounded) return views;
    ModelViews computed = model_views(model, layout, rounded);
    views.embedding = computed.embedding;
    views.head = computed.head;
    for (size_t l = 0; l < views.layers.size(); ++l) {
        LayerViews &to = views.layers[l], &from = computed.layers[l];
        to.qkv = from.qkv;
        to.output = from.output;
        to.mlp_in = from.mlp_in;
        to.mlp_out = from.mlp_out;
        to.experts = from.experts;
    }
    return views;
}

void add_frozen_views(const ModelConfig& model, const FrozenLayout& layout, Tensor copies,
                      ModelViews& views) {
    std::vector<Stretch> experts = expert_stretches(model, layout.parameters, copies);
    for (int l = 0; l < model.n_layers; ++l) {
        views.layers[l].frozen = experts[l].memory;
        views.layers[l].frozen_offset = std::move(experts[l].offset);
    }
}

}  // namespace fomoe
