// fomoe-eval --export and --logits.
#include "checkpoint/safetensors.h"
#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

std::vector<float> values_of(const SafetensorsFile& file, const std::string& name) {
    std::vector<float> values(file.entries().at(name).bytes / 4);
    file.read({name, 0, view(values.data(), Shape(std::ssize(values)))});
    return values;
}

}  // namespace

TEST_CASE("the union model is exported under the names of its architecture, in any type") {
    const Workplace place;
    place.trained(
        place.train(kPair, {"--set", "name=pair", "--set", "federation.replication=2", "--set",
                            "model.qk_norm=none", "--set", "model.moe.bias_update=0"}));
    const auto exported = [&](const std::string& to, const std::string& dtype) {
        return place.run({program("fomoe-eval"), "runs/pair", "--export", to, "--dtype", dtype});
    };
    for (const char* dtype : {"f32", "bf16", "f16"}) {
        const Outcome result = exported(std::string("hf/") + dtype, dtype);
        INFO(result.err);
        REQUIRE(result.exit == 0);
    }
    const fs::path home = place.path() / "hf";
    const Json config = Json::parse(read_text(home / "f32/config.json"));
    CHECK(config.at("architectures").at(0) == "MixtralForCausalLM");
    CHECK(config.at("eos_token_id") == 256);
    CHECK(Json::parse(read_text(home / "bf16/config.json")).at("torch_dtype") == "bfloat16");
    const Json tokenizer = Json::parse(read_text(home / "f32/tokenizer.json"));
    CHECK(tokenizer.at("model").at("vocab").at("A") == 65);
    CHECK(tokenizer.at("model").at("vocab").at("\u0120") == 32);
    CHECK(tokenizer.at("model").at("vocab").size() == 257);

    const fs::path model = place.checkpoint("pair", 12) / "model" / "model.safetensors";
    const SafetensorsFile ours(model), f32(home / "f32/model.safetensors"),
        half(home / "f16/model.safetensors"), brain(home / "bf16/model.safetensors");
    CHECK(ours.entries().size() == f32.entries().size());
    const std::pair<const char*, const char*> names[] = {
        {"model.layers.0.mlp.experts.1.down_proj.weight",
         "model.layers.0.block_sparse_moe.experts.1.w2.weight"},
        {"model.layers.1.mlp.gate.weight", "model.layers.1.block_sparse_moe.gate.weight"},
        {"lm_head.weight", "lm_head.weight"}};
    for (const auto& [name, theirs] : names) {
        const std::vector<float> values = values_of(ours, name);
        CHECK(values_of(f32, theirs) == values);
        REQUIRE(brain.entries().at(theirs).dtype == "BF16");
        REQUIRE(half.entries().at(theirs).dtype == "F16");
        std::vector<bf16> rounded(values.size());
        brain.read({theirs, 0, view(rounded.data(), Shape(std::ssize(rounded)))});
        for (size_t i = 0; i < values.size(); ++i)
            CHECK(rounded[i].bits == to_bf16(values[i]).bits);
    }

    const Outcome again = exported("hf/f32", "f32");
    CHECK(again.exit == 2);
    CHECK_THAT(again.err, Contains("is not empty"));
    for (const Command& more :
         {Command{"--generate", "A"}, {"--info"}, {"--out", "x.safetensors"}}) {
        Command words{program("fomoe-eval"), "runs/pair", "--export", "hf/other"};
        words.insert(words.end(), more.begin(), more.end());
        CHECK(place.run(words).exit == 2);
        CHECK_FALSE(fs::exists(home / "other"));
    }
    const Outcome evaluated = place.run({program("fomoe-eval"), "runs/pair", "--dtype", "f16"});
    CHECK(evaluated.exit == 2);
}

TEST_CASE("a model that no architecture computes says which keys are in the way") {
    const Workplace place;
    place.trained(place.train(
        kSolo, {"--set", "name=odd", "--set", "model.moe.expert=mlp", "--set", "train.steps=2"}));
    const Outcome result = place.run({program("fomoe-eval"), "runs/odd", "--export", "out"});
    CHECK(result.exit == 2);
    CHECK_THAT(result.err, Contains("model.moe.expert: swiglu"));
    CHECK_FALSE(fs::exists(place.path() / "out"));
}

TEST_CASE("logits do not depend on what follows, nor on the ranks", "[mpi]") {
    const Workplace place;
    place.trained(place.train(kSolo, {"--set", "name=solo"}));
    write_text(place.path() / "ids.txt", "104 101 108 108 111 32 119\n\n104 101 108\n");
    const Command words{program("fomoe-eval"), "runs/solo", "--logits", "ids.txt", "--out"};
    const auto with = [&](Command command, const char* file, int ranks) {
        command.push_back(file);
        const Outcome result = place.run(ranks == 1 ? command : on_ranks(ranks, command));
        INFO(result.err);
        REQUIRE(result.exit == 0);
        return SafetensorsFile(place.path() / file);
    };
    const SafetensorsFile one = with(words, "one.safetensors", 1),
                          two = with(words, "two.safetensors", 2);
    const std::vector<float> all = values_of(one, "logits.0"), first = values_of(one, "logits.1"),
                             split = values_of(two, "logits.0");
    const size_t V = all.size() / 7;
    REQUIRE(first.size() == 3 * V);
    for (size_t i = 0; i < first.size(); ++i) CHECK(first[i] == Approx(all[i]).margin(1e-6));
    for (size_t i = 0; i < all.size(); ++i) CHECK(split[i] == Approx(all[i]).margin(1e-5));

    write_text(place.path() / "bad.txt", "1 2\n3 9999\n");
    Command bad = words;
    bad[3] = "bad.txt";
    bad.push_back("bad.safetensors");
    const Outcome refused = place.run(bad);
    CHECK(refused.exit == 2);
    CHECK_THAT(refused.err, Contains("line 2: '9999' is no token id"));
}
