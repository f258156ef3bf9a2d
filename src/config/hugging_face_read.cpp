// From a Hugging Face directory's config.json to the section `model`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "config/hugging_face.h"

namespace fomoe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr uintmax_t kMostBytes = 1 << 20;  // what is larger is no config
constexpr int kMostWhole = 1 << 24;

// The keys of the file. What is missing or null is `otherwise`, if there is one.
class ConfigJson {
public:
    explicit ConfigJson(const fs::path& directory) : path_((directory / "config.json").string()) {
        std::error_code failed;
        if (!fs::is_regular_file(path_, failed)) refuse("there is no such file");
        if (fs::file_size(path_, failed) > kMostBytes || failed)
            refuse(fmt::format("more than {} bytes are no config", kMostBytes));
        top_ = json::parse(read_file(path_), nullptr, false);
        if (!top_.is_object()) refuse("no JSON object");
    }

    bool has(const char* key) const { return top_.contains(key) && !top_[key].is_null(); }

    int whole(const char* key, std::optional<int> otherwise = {}) const {
        const json* value = find(key, otherwise.has_value());
        if (!value) return *otherwise;
        if (!value->is_number_unsigned() || value->get<uint64_t>() > kMostWhole)
            refuse(fmt::format("{} is {}; a whole number up to {} is expected", key, shown(*value),
                               kMostWhole));
        return value->get<int>();
    }
    // Of two names for the same, as versions of transformers write them.
    int either(const char* key, const char* newer) const { return whole(has(key) ? key : newer); }
    double real(const char* key, std::optional<double> otherwise = {}) const {
        const json* value = find(key, otherwise.has_value());
        if (!value) return *otherwise;
        if (!value->is_number())
            refuse(fmt::format("{} is {}; a number is expected", key, shown(*value)));
        return value->get<double>();
    }
    bool flag(const char* key, bool otherwise) const {
        const json* value = find(key, true);
        if (!value) return otherwise;
        if (!value->is_boolean())
            refuse(fmt::format("{} is {}; true or false is expected", key, shown(*value)));
        return value->get<bool>();
    }
    std::string text(const char* key, std::optional<std::string> otherwise = {}) const {
        const json* value = find(key, otherwise.has_value());
        if (!value) return *otherwise;
        if (!value->is_string())
            refuse(fmt::format("{} is {}; a text is expected", key, shown(*value)));
        return value->get<std::string>();
    }

    // A key that our models know one value of.
    void only(const char* key, const json& value, const json& otherwise) const {
        const json& found = has(key) ? top_[key] : otherwise;
        if (found != value)
            refuse(fmt::format("{} is {}, and no model here computes that; it must be {}", key,
                               shown(found), shown(value)));
    }

    // Part of a newer and of an older form of the file: rope_parameters, and keys at the top.
    struct Rope {
        double theta, share;
    };
    Rope rope(double theta, double share) const {
        json rope = json::object();
        for (const char* key : {"rope_scaling", "rope_parameters"})
            if (has(key)) {
                if (!top_[key].is_object()) refuse(fmt::format("{} is no object", key));
                rope = top_[key];
            }
        for (const char* key : {"type", "rope_type"})
            if (rope.contains(key) && rope[key] != "default")
                refuse(
                    fmt::format("the rope is of the type {}, and no model here computes that; "
                                "it must be \"default\"",
                                shown(rope[key])));
        for (const char* key : {"rope_theta", "partial_rotary_factor"}) {
            const json* value = rope.contains(key) ? &rope[key] : has(key) ? &top_[key] : nullptr;
            if (!value) continue;
            if (!value->is_number() || value->get<double>() < 0)
                refuse(fmt::format("{} is {}", key, shown(*value)));
            (key[0] == 'r' ? theta : share) = value->get<double>();
        }
        return {theta, share};
    }

    // How many of the first layers are dense, where the file lists them.
    int first_of(const char* key, int n_layers) const {
        if (!has(key)) return 0;
        const json& list = top_[key];
        const int n = static_cast<int>(std::min<size_t>(list.size(), kMostWhole));
        for (int i = 0; i < n; ++i)
            if (!list.is_array() || list[i] != i || i >= n_layers)
                refuse(fmt::format("{} is {}; only the first layers of a model here can be dense",
                                   key, shown(list)));
        return n;
    }

    [[noreturn]] void refuse(const std::string& why) const {
        throw Error(Exit::usage, fmt::format("{}: {}", path_, why));
    }
    static std::string shown(const json& value) {
        const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
        return text.size() > 60 ? text.substr(0, 60) + "..." : text;
    }

private:
    const json* find(const char* key, bool may_be_missing) const {
        if (has(key)) return &top_[key];
        if (!may_be_missing) refuse(fmt::format("{} is missing", key));
        return nullptr;
    }

    std::string path_;
    json top_;
};

constexpr const char* kTypes[] = {"mixtral", "olmoe",   "qwen3_moe", "glm4_moe",
                                  "llama",   "mistral", "qwen3"};

void read_mixtral(const ConfigJson& in, ModelConfig& model) {
    in.only("sliding_window", nullptr, nullptr);
    model.moe.n_experts = in.whole("num_local_experts");
    model.moe.d_expert = in.whole("intermediate_size");
    model.moe.normalize_top_k = true;
}

void read_olmoe(const ConfigJson& in, ModelConfig& model) {
    in.only("clip_qkv", nullptr, nullptr);
    model.qk_norm = QkNorm::full;
    model.moe.n_experts = in.either("num_experts", "num_local_experts");
    model.moe.d_expert = in.whole("intermediate_size");
    model.moe.normalize_top_k = in.flag("norm_topk_prob", false);
}

void read_qwen3_moe(const ConfigJson& in, ModelConfig& model) {
    in.only("decoder_sparse_step", 1, 1);
    model.qk_norm = QkNorm::head;
    model.moe.n_experts = in.either("num_experts", "num_local_experts");
    model.moe.d_expert = in.whole("moe_intermediate_size");
    model.moe.first_dense_layers = in.first_of("mlp_only_layers", model.n_layers);
    model.moe.normalize_top_k = in.flag("norm_topk_prob", false);
}

void read_glm4_moe(const ConfigJson& in, ModelConfig& model) {
    in.only("n_group", 1, 1);
    in.only("topk_group", 1, 1);
    model.qk_norm = in.flag("use_qk_norm", false) ? QkNorm::head : QkNorm::none;
    model.moe.router = RouterKind::sigmoid;
    model.moe.n_experts = in.either("n_routed_experts", "num_local_experts");
    model.moe.n_shared_experts = in.whole("n_shared_experts");
    model.moe.d_expert = in.whole("moe_intermediate_size");
    model.moe.first_dense_layers = in.whole("first_k_dense_replace");
    model.moe.normalize_top_k = in.flag("norm_topk_prob", true);
    model.moe.top_k_scale = in.real("routed_scaling_factor", 1.0);
}

// Router, number of experts and gates are asked for, not read.
void read_dense(const ConfigJson& in, const ModelConfig& asked, ModelConfig& model) {
    if (in.text("model_type") == "qwen3") model.qk_norm = QkNorm::head;
    if (in.text("model_type") == "mistral") in.only("sliding_window", nullptr, nullptr);
    in.only("mlp_bias", false, false);
    const int shared = model.moe.n_shared_experts;
    model.moe = asked.moe;
    model.moe.expert = ExpertKind::swiglu;
    model.moe.n_shared_experts = shared;
    model.moe.d_expert = in.whole("intermediate_size");
}

void check_attention(const ConfigJson& in, int n_layers) {
    in.only("hidden_act", "silu", "silu");
    in.only("attention_bias", false, false);
    in.only("use_sliding_window", false, false);
    if (in.has("layer_types"))
        in.only("layer_types", json(std::vector<std::string>(n_layers, "full_attention")), {});
}

}  // namespace

HuggingFaceModel read_hugging_face(const fs::path& directory, const ModelConfig& asked) {
    const ConfigJson in(directory);
    const std::string type = in.text("model_type");
    if (std::ranges::find(kTypes, type) == std::end(kTypes))
        in.refuse(
            fmt::format("model_type is \"{}\"; {} can be read", type, fmt::join(kTypes, ", ")));
    HuggingFaceModel found{.model = asked, .type = type};
    ModelConfig& model = found.model;
    model.n_layers = in.whole("num_hidden_layers");
    check_attention(in, model.n_layers);
    model.d_model = in.whole("hidden_size");
    model.n_heads = in.whole("num_attention_heads");
    model.n_kv_heads = in.whole("num_key_value_heads", model.n_heads);
    model.d_head = in.whole("head_dim", 0);
    if (int64_t{model.d_head} * model.n_heads == model.d_model) model.d_head = 0;
    model.vocab_size = in.whole("vocab_size");
    model.norm_eps = in.real("rms_norm_eps");
    model.tie_embeddings = in.flag("tie_word_embeddings", false);
    const auto rope = in.rope(type == "mixtral" ? 1e6 : 1e4, type == "glm4_moe" ? 0.5 : 1.0);
    model.rope_theta = rope.theta;
    model.rotary_fraction = rope.share;
    model.qk_norm = QkNorm::none;

    model.moe.expert = ExpertKind::swiglu;
    model.moe.router = RouterKind::softmax;
    model.moe.n_shared_experts = 0;
    model.moe.first_dense_layers = 0;
    model.moe.top_k_scale = 1;
    found.dense = type == "llama" || type == "mistral" || type == "qwen3";
    if (!found.dense) model.moe.top_k = in.whole("num_experts_per_tok");
    if (found.dense)
        read_dense(in, asked, model);
    else if (type == "mixtral")
        read_mixtral(in, model);
    else if (type == "olmoe")
        read_olmoe(in, model);
    else if (type == "qwen3_moe")
        read_qwen3_moe(in, model);
    else
        read_glm4_moe(in, model);
    if (model.moe.first_dense_layers > 0) model.moe.d_dense = in.whole("intermediate_size");

    for (const int n : {model.n_layers, model.d_model, model.n_heads, model.n_kv_heads,
                        model.vocab_size, model.moe.n_experts, model.moe.top_k, model.moe.d_expert})
        if (n < 1) in.refuse("a size is 0");
    if (!(model.norm_eps > 0) || !(model.rope_theta > 0) || !(model.moe.top_k_scale > 0) ||
        !(model.rotary_fraction <= 1) || model.moe.n_experts > kMostExperts)
        in.refuse("a value is out of range");
    return found;
}

}  // namespace fomoe
