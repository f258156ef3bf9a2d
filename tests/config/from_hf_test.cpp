// model.from_hf: what a Hugging Face directory decides of the model, and what it may not say.
#include <nlohmann/json.hpp>

#include "config/config_files.h"
#include "config/dump.h"
#include "config/hugging_face.h"

using namespace fomoe;
using Catch::Contains;
using Json = nlohmann::json;

namespace {

Json llama() {
    return {{"model_type", "llama"},      {"vocab_size", 512},        {"hidden_size", 48},
            {"num_hidden_layers", 3},     {"num_attention_heads", 6}, {"num_key_value_heads", 2},
            {"intermediate_size", 96},    {"rms_norm_eps", 1e-6},     {"rope_theta", 5e5},
            {"tie_word_embeddings", true}};
}

Config loaded(const Json& about, const std::string& text = "") {
    const TemporaryDirectory source;
    std::ofstream(source / "config.json") << about.dump();
    return load("model: {from_hf: " + source.path() + text + "}\n" + kSources);
}

std::string refused(const Json& about, const std::string& text = "") {
    Files files;
    std::filesystem::create_directories(files.path() + "/hf");
    std::ofstream(files.path() + "/hf/config.json") << about.dump();
    files.add("a.yaml", "model:\n  from_hf: hf\n" + text + kSources);
    return files.errors();
}

}  // namespace

TEST_CASE("the shape of a model comes from the directory that it starts from") {
    const ModelConfig model =
        loaded(llama(), ", moe: {n_experts: 4, top_k: 1, aux_loss: 0.5}").model;
    CHECK(model.d_model == 48);
    CHECK(model.n_layers == 3);
    CHECK(model.head_size() == 8);
    CHECK(model.n_kv_heads == 2);
    CHECK(model.vocab_size == 512);
    CHECK(model.norm_eps == 1e-6);
    CHECK(model.rope_theta == 5e5);
    CHECK(model.tie_embeddings);
    CHECK(model.moe.d_expert == 96);
    CHECK(model.moe.n_experts == 4);
    CHECK(model.moe.top_k == 1);
    CHECK(model.moe.aux_loss == 0.5);
    CHECK(loaded(llama(), ", moe: {first_dense_layers: 2}").model.moe.d_dense == 96);

    // As the directory says it, or what means the same, does no harm.
    ModelConfig same =
        loaded(llama(), ", d_model: 48, d_head: 8, vocab_size: 0, rope_theta: 5.0e+5").model;
    const ModelConfig plain = loaded(llama()).model;
    same.from_hf = plain.from_hf;
    CHECK(same == plain);
}

TEST_CASE("what config.json of every architecture says is what was written into it") {
    ModelConfig model{.d_model = 64, .n_layers = 2, .n_heads = 4, .n_kv_heads = 2};
    model.vocab_size = 320;
    const auto again = [](const ModelConfig& written) {
        ModelConfig read =
            loaded(Json::parse(hugging_face_config(*architecture_of(written), written, {}))).model;
        read.from_hf.clear();
        return read;
    };
    CHECK(again(model) == model);
    model.qk_norm = QkNorm::full;
    model.moe.normalize_top_k = false;
    CHECK(again(model) == model);
    model.qk_norm = QkNorm::head;
    model.d_head = 32;
    model.moe.first_dense_layers = 1;
    model.moe.d_dense = 96;
    CHECK(again(model) == model);
    model.moe.router = RouterKind::sigmoid;
    model.moe.n_shared_experts = 2;
    model.moe.top_k_scale = 2.5;
    model.rotary_fraction = 0.5;
    CHECK(again(model) == model);
}

TEST_CASE("the newer form of config.json is read like the older one") {
    Json about = llama();
    about.erase("rope_theta");
    about["rope_parameters"] = {{"rope_theta", 5e5}, {"rope_type", "default"}};
    CHECK(loaded(about).model.rope_theta == 5e5);
    about["model_type"] = "glm4_moe";
    about.update({{"n_routed_experts", 8},
                  {"n_shared_experts", 1},
                  {"num_experts_per_tok", 2},
                  {"moe_intermediate_size", 16},
                  {"first_k_dense_replace", 0}});
    about["rope_parameters"]["partial_rotary_factor"] = 0.25;
    CHECK(loaded(about).model.rotary_fraction == 0.25);
    about["model_type"] = "qwen3_moe";
    about.erase("n_routed_experts");
    about["rope_parameters"].erase("partial_rotary_factor");
    about["num_local_experts"] = 6;
    CHECK(loaded(about).model.moe.n_experts == 6);
}

TEST_CASE("keys that contradict the directory are errors at their lines") {
    CHECK(
        refused(llama(), "  d_model: 64\n  qk_norm: head\n  moe: {n_shared_experts: 1}\n") ==
        "a.yaml:3:12: error: model.d_model: 64, but hf/config.json has 48; leave the key out\n"
        "a.yaml:4:12: error: model.qk_norm: head, but hf/config.json has none; leave the key out\n"
        "a.yaml:5:27: error: model.moe.n_shared_experts: 1, but hf/config.json has 0; leave the "
        "key out\n3 errors; nothing was started.");
}

TEST_CASE("a directory that no model here computes is an error at from_hf") {
    const auto said = [](const char* key, const Json& value) {
        Json about = llama();
        about[key] = value;
        return refused(about);
    };
    const std::string where = "a.yaml:2:12: error: model.from_hf: hf/config.json: ";
    CHECK(said("attention_bias", true) ==
          where +
              "attention_bias is true, and no model here computes that; it must be false\n"
              "1 error; nothing was started.");
    CHECK_THAT(said("model_type", "bert"), Contains(where + "model_type is \"bert\"; mixtral,"));
    CHECK_THAT(said("hidden_size", nullptr), Contains(where + "hidden_size is missing"));
    CHECK_THAT(said("hidden_size", -3), Contains(where + "hidden_size is -3; a whole number"));
    CHECK_THAT(said("hidden_size", 0), Contains(where + "a size is 0"));
    CHECK_THAT(said("hidden_act", "gelu"), Contains(where + "hidden_act is \"gelu\""));
    CHECK_THAT(said("rope_scaling", {{"rope_type", "yarn"}}), Contains("type \"yarn\""));
    CHECK_THAT(said("tie_word_embeddings", 1), Contains("tie_word_embeddings is 1; true or"));
    CHECK_THAT(said("num_attention_heads", 5), Contains("hf/config.json: error: model.n_heads: 5"));
    CHECK_THAT(refused("[]"), Contains(where + "no JSON object"));
    CHECK_THAT(
        errors("model: {from_hf: nowhere}\n" + kSources),
        Contains("a.yaml:1:18: error: model.from_hf: nowhere/config.json: there is no such"));
}

TEST_CASE("a config that a run has saved says all that its directory said") {
    const TemporaryDirectory place;
    std::filesystem::create_directory(place / "hf");
    std::ofstream(place / "hf/config.json") << llama().dump();
    std::ofstream(place / "a.yaml") << "model: {from_hf: hf}\n" << kSources;
    const Config config = load_config({place / "a.yaml"});
    CHECK(config.model.from_hf == place / "hf");
    const std::string saved = place / "saved.yaml";
    std::ofstream(saved) << dump_config(config);
    CHECK(load_config({saved}) == config);
    std::filesystem::remove_all(place / "hf");
    CHECK(load_saved_config(saved) == config);
    CHECK_THROWS_AS(load_config({saved}), Error);
    CHECK(config_fingerprint(config) == config_fingerprint([&] {
              Config moved = config;
              moved.model.from_hf = "/elsewhere";
              return moved;
          }()));
}

TEST_CASE("Mixtral divides the gates of one expert, too, by their sum") {
    ModelConfig model;
    model.vocab_size = 64;
    model.moe.top_k = 1;
    CHECK(obstacles(Architecture::mixtral, model).empty());
    model.moe.normalize_top_k = false;
    CHECK(obstacles(Architecture::mixtral, model) ==
          std::vector<std::string>{"model.moe.normalize_top_k: true"});
}
