// Models that transformers has made at random and saved (tools/reference_logits.py), imported: what
// transformers and torch's autograd compute of them is what the model here computes.
#include <catch2/catch.hpp>
#include <filesystem>

#include "checkpoint/source_model.h"
#include "config/hugging_face.h"
#include "support/model_rig.h"

using namespace fomoe;
namespace fs = std::filesystem;

namespace {

constexpr double kBound = 1e-4;
constexpr int kLength = 16, kSequences = 2;

std::vector<float> values_of(const SafetensorsFile& file, const std::string& name) {
    std::vector<float> values(file.entries().at(name).bytes / sizeof(float));
    file.read_floats(name, 0, std::ssize(values), values.data());
    return values;
}

// Of the largest that is expected, over the elements that are given.
double difference(const std::vector<float>& found, const std::vector<float>& expected) {
    REQUIRE(found.size() >= expected.size());
    double worst = 0, largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        worst = std::max(worst, std::abs(double{found[i]} - expected[i]));
        largest = std::max(largest, std::abs(double{expected[i]}));
    }
    return worst / largest;
}

// The dense ones become four experts of which two are chosen.
Config config_of(const fs::path& directory) {
    Config config = tiny_config();
    config.model.moe.n_experts = 4;
    config.model = read_hugging_face(directory, config.model).model;
    config.model.from_hf = directory;
    config.model.moe.aux_loss = 0;
    if (config.model.moe.router == RouterKind::sigmoid) config.model.moe.bias_update = 0.001;
    config.data.seq_len = kLength;
    return config;
}

void take_tokens(const SafetensorsFile& reference, Batch& batch) {
    std::vector<int64_t> tokens(kSequences * kLength);
    reference.read({"tokens", 0, view(tokens.data(), Shape(std::ssize(tokens)))});
    batch.tokens.assign(tokens.begin(), tokens.end());
    batch.targets.assign(tokens.begin() + 1, tokens.end());
    batch.targets.push_back(-1);
    for (int s = 1; s < kSequences; ++s) batch.targets[s * kLength - 1] = -1;
    batch.valid_tokens = batch.group_valid_tokens = kSequences * (kLength - 1);
}

// By name; of a dense model what the experts of a layer have together is that of its MLP.
Values gradients_of(const Rig& rig, bool dense) {
    Values found;
    for (const Parameter& p : rig.layout().parameters) {
        std::string name = p.name;
        if (dense && p.expert >= 0) {
            const std::string expert = concat(".experts.", p.expert, ".");
            name.replace(name.find(expert), expert.size(), ".");
        }
        std::vector<float>& sum = found[name];
        sum.resize(p.count());
        const std::vector<double> own = rig.gradient(p);
        for (size_t i = 0; i < own.size(); ++i) sum[i] += static_cast<float>(own[i]);
    }
    return found;
}

}  // namespace

TEST_CASE("an imported model has the logits, the loss and the gradients of transformers") {
    int models = 0, gradients = 0;
    for (const auto& entry : fs::directory_iterator(FOMOE_SOURCE_DIR "/tests/reference")) {
        INFO(entry.path().string());
        const Config config = config_of(entry.path());
        Rig rig(config, kSequences);
        const SourceModel source(config.model);
        for (const Parameter& p : rig.layout().parameters)
            source.read(p, 0, p.count(), rig.weight(p));
        const SafetensorsFile reference(entry.path() / "reference.safetensors");
        take_tokens(reference, rig.batch());

        std::vector<float> logits(kSequences * kLength * config.model.vocab_size);
        rig.model().logits(token_batch(rig.batch()), {0, kSequences * kLength}, logits);
        CHECK(difference(logits, values_of(reference, "logits")) < kBound);

        const double loss = rig.evaluate().loss;
        CHECK(loss == Approx(values_of(reference, "loss")[0]).epsilon(kBound));
        const bool dense = read_hugging_face(entry.path(), config.model).dense;
        const Values found = gradients_of(rig, dense);
        const std::string prefix = "gradient.";
        for (const auto& [name, tensor] : reference.entries()) {
            if (!name.starts_with(prefix)) continue;
            INFO(name);
            ++gradients;
            CHECK(difference(found.at(name.substr(prefix.size())), values_of(reference, name)) <
                  kBound);
        }
        ++models;
    }
    CHECK(models == 6);
    CHECK(gradients == 100);
}
