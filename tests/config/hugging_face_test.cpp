#include "config/hugging_face.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

using namespace fomoe;
using Catch::Contains;

namespace {

ModelConfig small() {
    ModelConfig model{.d_model = 64, .n_layers = 2, .n_heads = 4, .n_kv_heads = 2};
    model.vocab_size = 320;
    return model;
}

ModelConfig with_shared_experts() {
    ModelConfig model = small();
    model.qk_norm = QkNorm::head;
    model.moe.router = RouterKind::sigmoid;
    model.moe.n_shared_experts = 1;
    model.moe.first_dense_layers = 1;
    model.moe.d_dense = 96;
    model.moe.bias_update = 1e-3;
    model.moe.top_k_scale = 2.5;
    return model;
}

}  // namespace

TEST_CASE("every model goes to the architecture that computes it, or says what is in the way") {
    ModelConfig model = small();
    CHECK(architecture_of(model) == Architecture::mixtral);
    model.qk_norm = QkNorm::full;
    CHECK(architecture_of(model) == Architecture::olmoe);
    model.qk_norm = QkNorm::head;
    CHECK(architecture_of(model) == Architecture::qwen3_moe);
    model.d_head = 32;
    CHECK(architecture_of(model) == Architecture::qwen3_moe);
    model = with_shared_experts();
    CHECK(architecture_of(model) == Architecture::glm4_moe);
    model.rotary_fraction = 0.5;
    CHECK(architecture_of(model) == Architecture::glm4_moe);
    CHECK(obstacles(Architecture::qwen3_moe, model) ==
          std::vector<std::string>{"model.moe.router: softmax", "model.rotary_fraction: 1",
                                   "model.moe.n_shared_experts: 0", "model.moe.top_k_scale: 1",
                                   "model.moe.bias_update: 0"});

    model = small();
    model.moe.normalize_top_k = false;
    CHECK_FALSE(architecture_of(model));
    CHECK_THAT(no_architecture_text(model),
               Contains("MixtralForCausalLM would with model.moe.normalize_top_k: true"));
    model = small();
    model.moe.expert = ExpertKind::mlp;
    CHECK_THAT(no_architecture_text(model), Contains("model.moe.expert: swiglu"));
    model = small();
    model.qk_norm = QkNorm::full;
    model.d_head = 32;
    CHECK_THAT(no_architecture_text(model), Contains("model.qk_norm: none"));
}

TEST_CASE("Mixtral has names of its own, the others ours") {
    const auto mixtral = [](const char* name) {
        return hugging_face_name(Architecture::mixtral, name);
    };
    CHECK(mixtral("model.layers.1.mlp.gate.weight") ==
          "model.layers.1.block_sparse_moe.gate.weight");
    CHECK(mixtral("model.layers.1.mlp.experts.12.gate_proj.weight") ==
          "model.layers.1.block_sparse_moe.experts.12.w1.weight");
    CHECK(mixtral("model.layers.1.mlp.experts.12.down_proj.weight") ==
          "model.layers.1.block_sparse_moe.experts.12.w2.weight");
    CHECK(mixtral("model.layers.1.mlp.experts.12.up_proj.weight") ==
          "model.layers.1.block_sparse_moe.experts.12.w3.weight");
    CHECK(mixtral("model.embed_tokens.weight") == "model.embed_tokens.weight");
    CHECK(hugging_face_name(Architecture::glm4_moe,
                            "model.layers.1.mlp.gate.e_score_correction_bias") ==
          "model.layers.1.mlp.gate.e_score_correction_bias");
    for (const char* name :
         {"model.layers.1.mlp.gate.weight", "model.layers.1.mlp.experts.12.gate_proj.weight",
          "model.layers.0.mlp.experts.0.down_proj.weight", "model.norm.weight"}) {
        CHECK(parameter_name(mixtral(name)) == name);
        CHECK(parameter_name(name) == name);
    }
}

TEST_CASE("config.json has the keys of its architecture") {
    const auto config = [](const ModelConfig& model) {
        return nlohmann::json::parse(
            hugging_face_config(*architecture_of(model), model, {.positions = 128}));
    };
    const auto mixtral = config(small());
    CHECK(mixtral.at("model_type") == "mixtral");
    CHECK(mixtral.at("num_local_experts") == 16);
    CHECK(mixtral.at("intermediate_size") == 256);
    CHECK(mixtral.at("max_position_embeddings") == 128);
    const auto glm = config(with_shared_experts());
    CHECK(glm.at("architectures").at(0) == "Glm4MoeForCausalLM");
    CHECK(glm.at("first_k_dense_replace") == 1);
    CHECK(glm.at("intermediate_size") == 96);
    CHECK(glm.at("moe_intermediate_size") == 256);
    CHECK(glm.at("routed_scaling_factor") == 2.5);
    CHECK(glm.at("use_qk_norm") == true);
}
