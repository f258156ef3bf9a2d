#include "checkpoint/source_model.h"

#include "checkpoint/support.h"
#include "config/hugging_face.h"

using namespace fomoe;
using namespace fomoe::test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

// A copy of a model that transformers has saved.
class Copied {
public:
    explicit Copied(const std::string& name) {
        fs::copy(FOMOE_SOURCE_DIR "/tests/reference/" + name, directory_,
                 fs::copy_options::recursive);
    }
    fs::path operator/(const std::string& name) const { return directory_ / name; }

    void replace(const std::string& file, const std::string& from, const std::string& to) const {
        std::string bytes = bytes_of(directory_ / file);
        REQUIRE(bytes.find(from) != bytes.npos);
        for (size_t at = 0; (at = bytes.find(from, at)) != bytes.npos; at += to.size())
            bytes.replace(at, from.size(), to);
        put_bytes(directory_ / file, bytes);
    }
    ModelConfig model() const {
        ModelConfig model;
        model.moe.n_experts = 4;
        model = read_hugging_face(fs::path(directory_), model).model;
        model.from_hf = fs::path(directory_);
        return model;
    }
    std::string refused() const {
        return refusal([&] { SourceModel{model()}; });
    }

private:
    TempDirectory directory_;
};

std::vector<float> read(const SourceModel& source, const Parameter& p) {
    std::vector<float> values(p.count());
    if (!source.read(p, 0, p.count(), values.data())) values.clear();
    return values;
}

const Parameter& named(const std::vector<Parameter>& all, const std::string& name) {
    return *std::ranges::find(all, name, &Parameter::name);
}

}  // namespace

TEST_CASE("every expert of a dense model is its MLP, and routers are left as they are") {
    const Copied llama("llama");
    ModelConfig model = llama.model();
    CHECK(model.moe.d_expert == 24);
    const SourceModel source(model);
    const auto all = all_parameters(model, Placement::all_resident(4));
    const SafetensorsFile file(llama / "model.safetensors");
    std::vector<float> mlp(24 * 32);
    file.read_floats("model.layers.1.mlp.up_proj.weight", 0, 24 * 32, mlp.data());
    for (int e = 0; e < 4; ++e)
        CHECK(read(source,
                   named(all, concat("model.layers.1.mlp.experts.", e, ".up_proj.weight"))) == mlp);
    CHECK(read(source, named(all, "model.layers.1.mlp.gate.weight")).empty());
    CHECK_THAT(source.text(), Contains("each of 4 experts starts as a copy of its layer's MLP"));
    float part[5];
    REQUIRE(source.read(named(all, "model.layers.1.mlp.experts.2.up_proj.weight"), 40, 5, part));
    CHECK(std::equal(part, part + 5, mlp.begin() + 40));

    model.moe.first_dense_layers = 2;
    model.moe.d_dense = 24;
    const auto dense = all_parameters(model, Placement::all_resident(4));
    CHECK(read(SourceModel(model), named(dense, "model.layers.1.mlp.up_proj.weight")) == mlp);
}

TEST_CASE("weights that are not the model's are refused by file and tensor, all at once") {
    const std::string q = "model.layers.0.self_attn.q_proj.weight";
    SECTION("a tensor of another name") {
        const Copied copied("mixtral");
        const std::string file = "model-00001-of-00002.safetensors";
        copied.replace(file, "layers.0.self_attn.q_proj", "layers.0.self_attn.x_proj");
        const std::string said = copied.refused();
        CHECK_THAT(said, Contains("no file has the tensor '" + q + "'\n"));
        CHECK_THAT(said,
                   Contains((copied / file).string() +
                            ": tensor 'model.layers.0.self_attn.x_proj.weight' is none of the "
                            "model's\n"));
        CHECK_THAT(said, Contains("\n2 errors in the weights of model.from_hf"));
    }
    SECTION("other shapes") {
        const Copied copied("mixtral");
        copied.replace("config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 2");
        CHECK_THAT(copied.refused(),
                   Contains("model-00001-of-00002.safetensors: tensor "
                            "'model.layers.0.self_attn.k_proj.weight' is (16, 32), its config.json "
                            "makes it (32, 32)"));
    }
    SECTION("no floats") {
        const Copied copied("qwen3");
        copied.replace("model.safetensors", "\"F32\"", "\"I32\"");
        CHECK_THAT(copied.refused(), Contains("tensor '" + q + "' is in I32; F32, BF16 and F16"));
    }
    SECTION("a selection bias that the model does not have") {
        const Copied copied("glm4_moe");
        CHECK_THAT(copied.refused(), Contains("model.moe.bias_update above 0\n1 error"));
    }
    SECTION("files") {
        const Copied copied("mixtral");
        const std::string index = "model.safetensors.index.json";
        copied.replace(index, "\"model-00002", "\"../model-00002");
        CHECK_THAT(copied.refused(), Contains(index + ": tensor "));
        put_bytes(copied / index, "[]");
        CHECK_THAT(copied.refused(), Contains(index + ": no index"));
        put_bytes(copied / index, R"({"weight_map": {"a": "gone.safetensors"}})");
        CHECK_THAT(copied.refused(), Contains("gone.safetensors"));
        fs::remove(copied / index);
        CHECK_THAT(copied.refused(), Contains("model.safetensors: there is no such file"));
    }
    SECTION("a file that is cut off") {
        const Copied copied("llama");
        fs::resize_file(copied / "model.safetensors", 5000);
        CHECK_THAT(copied.refused(), Contains("model.safetensors: "));
    }
}
