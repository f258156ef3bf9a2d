#include "config/hugging_face.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace fomoe {
namespace {

using nlohmann::ordered_json;

constexpr Architecture kAll[] = {Architecture::mixtral, Architecture::olmoe,
                                 Architecture::qwen3_moe, Architecture::glm4_moe};

// What the architectures differ in.
struct Traits {
    const char* class_name;
    const char* model_type;
    RouterKind router = RouterKind::softmax;
    std::vector<QkNorm> qk_norm;
    bool always_normalizes = false;  // the weights of the chosen experts sum to 1
    bool any_head_size = true;       // else d_model / n_heads
    bool dense_layers = false, shared_experts = false;
    bool partial_rotary = false, scales_top_k = false;
};

const Traits& traits_of(Architecture architecture) {
    static const Traits all[] = {
        {.class_name = "MixtralForCausalLM",
         .model_type = "mixtral",
         .qk_norm = {QkNorm::none},
         .always_normalizes = true},
        {.class_name = "OlmoeForCausalLM",
         .model_type = "olmoe",
         .qk_norm = {QkNorm::full},
         .any_head_size = false},
        {.class_name = "Qwen3MoeForCausalLM",
         .model_type = "qwen3_moe",
         .qk_norm = {QkNorm::head},
         .dense_layers = true},
        {.class_name = "Glm4MoeForCausalLM",
         .model_type = "glm4_moe",
         .router = RouterKind::sigmoid,
         .qk_norm = {QkNorm::none, QkNorm::head},
         .dense_layers = true,
         .shared_experts = true,
         .partial_rotary = true,
         .scales_top_k = true},
    };
    return all[static_cast<int>(architecture)];
}

const char* text_of(QkNorm norm) {
    constexpr const char* names[] = {"none", "head", "full"};
    return names[static_cast<int>(norm)];
}

std::string values_text(const std::vector<QkNorm>& values) {
    std::string text;
    for (QkNorm value : values) text += (text.empty() ? "" : " or ") + std::string(text_of(value));
    return text;
}

// Replaces the part between dots, if it is there.
void rename(std::string& name, const std::string& from, const std::string& to) {
    const size_t at = name.find("." + from + ".");
    if (at != std::string::npos) name.replace(at + 1, from.size(), to);
}

}  // namespace

std::string class_name(Architecture architecture) { return traits_of(architecture).class_name; }

std::vector<std::string> obstacles(Architecture architecture, const ModelConfig& model) {
    const Traits& has = traits_of(architecture);
    const MoeConfig& moe = model.moe;
    std::vector<std::string> found;
    const auto need = [&](bool fits, const std::string& key, const std::string& value) {
        if (!fits) found.push_back(key + ": " + value);
    };
    need(moe.expert == ExpertKind::swiglu, "model.moe.expert", "swiglu");
    need(moe.router == has.router, "model.moe.router",
         has.router == RouterKind::softmax ? "softmax" : "sigmoid");
    need(std::ranges::count(has.qk_norm, model.qk_norm) > 0, "model.qk_norm",
         values_text(has.qk_norm));
    need(!has.always_normalizes || moe.normalize_top_k, "model.moe.normalize_top_k", "true");
    need(has.any_head_size || model.head_size() * model.n_heads == model.d_model, "model.d_head",
         fmt::format("{}, d_model / n_heads", model.d_model / model.n_heads));
    need(has.partial_rotary ? model.rotary_fraction > 0 : model.rotary_fraction == 1,
         "model.rotary_fraction", has.partial_rotary ? "above 0" : "1");
    need(has.dense_layers || moe.first_dense_layers == 0, "model.moe.first_dense_layers", "0");
    need(has.shared_experts ? moe.n_shared_experts > 0 : moe.n_shared_experts == 0,
         "model.moe.n_shared_experts", has.shared_experts ? "at least 1" : "0");
    need(has.scales_top_k || moe.top_k_scale == 1, "model.moe.top_k_scale", "1");
    need(has.router == RouterKind::sigmoid || moe.bias_update == 0, "model.moe.bias_update", "0");
    return found;
}

std::optional<Architecture> architecture_of(const ModelConfig& model) {
    for (Architecture architecture : kAll)
        if (obstacles(architecture, model).empty()) return architecture;
    return {};
}

std::string no_architecture_text(const ModelConfig& model) {
    Architecture nearest = kAll[0];
    for (Architecture architecture : kAll)
        if (obstacles(architecture, model).size() < obstacles(nearest, model).size())
            nearest = architecture;
    std::string keys;
    for (const std::string& key : obstacles(nearest, model))
        keys += (keys.empty() ? "" : ", ") + key;
    return fmt::format("no Hugging Face architecture computes this model; {} would with {}",
                       class_name(nearest), keys);
}

std::string hugging_face_name(Architecture architecture, const std::string& parameter) {
    std::string name = parameter;
    if (architecture != Architecture::mixtral) return name;
    rename(name, "mlp", "block_sparse_moe");
    rename(name, "gate_proj", "w1");
    rename(name, "down_proj", "w2");
    rename(name, "up_proj", "w3");
    return name;
}

std::string parameter_name(const std::string& hugging_face_name) {
    std::string name = hugging_face_name;
    if (name.find(".block_sparse_moe.") == name.npos) return name;
    rename(name, "block_sparse_moe", "mlp");
    rename(name, "w1", "gate_proj");
    rename(name, "w2", "down_proj");
    rename(name, "w3", "up_proj");
    return name;
}

std::string hugging_face_config(Architecture architecture, const ModelConfig& model,
                                const HuggingFaceFacts& facts) {
    FOMOE_CHECK(obstacles(architecture, model).empty(), "not of this architecture");
    const Traits& has = traits_of(architecture);
    const MoeConfig& moe = model.moe;
    ordered_json out{
        {"architectures", {has.class_name}},
        {"model_type", has.model_type},
        {"vocab_size", model.vocab_size},
        {"hidden_size", model.d_model},
        {"num_hidden_layers", model.n_layers},
        {"num_attention_heads", model.n_heads},
        {"num_key_value_heads", model.n_kv_heads},
        {"head_dim", model.head_size()},
        {"hidden_act", "silu"},
        {"max_position_embeddings", facts.positions},
        {"initializer_range", model.init_std},
        {"rms_norm_eps", model.norm_eps},
        {"rope_theta", model.rope_theta},
        {"tie_word_embeddings", model.tie_embeddings},
        {"attention_bias", false},
        {"attention_dropout", 0.0},
        {"use_cache", true},
        {"torch_dtype", facts.dtype},
        {"num_experts_per_tok", moe.top_k},
        {"output_router_logits", false},
        {"router_aux_loss_coef", moe.aux_loss},
    };
    out.update(ordered_json::parse(facts.special_ids));
    const int shared_hidden = moe.n_shared_experts * moe.d_expert;
    switch (architecture) {
        case Architecture::mixtral:
            out["num_local_experts"] = moe.n_experts;
            out["intermediate_size"] = moe.d_expert;
            out["sliding_window"] = nullptr;
            break;
        case Architecture::olmoe:
            out["num_experts"] = moe.n_experts;
            out["intermediate_size"] = moe.d_expert;
            out["norm_topk_prob"] = moe.normalize_top_k;
            out["clip_qkv"] = nullptr;
            break;
        case Architecture::qwen3_moe: {
            out["num_experts"] = moe.n_experts;
            out["moe_intermediate_size"] = moe.d_expert;
            out["intermediate_size"] = moe.d_dense > 0 ? moe.d_dense : moe.d_expert;
            out["norm_topk_prob"] = moe.normalize_top_k;
            out["decoder_sparse_step"] = 1;
            out["mlp_only_layers"] = ordered_json::array();
            for (int l = 0; l < moe.first_dense_layers; ++l) out["mlp_only_layers"].push_back(l);
            out["use_sliding_window"] = false;
            out["sliding_window"] = nullptr;
            break;
        }
        case Architecture::glm4_moe:
            out["n_routed_experts"] = moe.n_experts;
            out["n_shared_experts"] = moe.n_shared_experts;
            out["moe_intermediate_size"] = moe.d_expert;
            out["intermediate_size"] = moe.d_dense > 0 ? moe.d_dense : shared_hidden;
            out["first_k_dense_replace"] = moe.first_dense_layers;
            out["norm_topk_prob"] = moe.normalize_top_k;
            out["routed_scaling_factor"] = moe.top_k_scale;
            out["n_group"] = 1;
            out["topk_group"] = 1;
            out["use_qk_norm"] = model.qk_norm == QkNorm::head;
            out["partial_rotary_factor"] = model.rotary_fraction;
            break;
    }
    return out.dump(2) + "\n";
}

}  // namespace fomoe
