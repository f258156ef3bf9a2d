// fomoe-eval --export and --logits.
#include "checkpoint/safetensors.h"
#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

std::vector<float> values_of(const SafetensorsFile& file, const std::string& name) {
    int64_t n = 1;
    for (int64_t dim : file.entries().at(name).shape) n *= dim;
    std::vector<float> values(n);
    file.read_floats(name, 0, n, values.data());
    return values;
}

const Command kMixtral{"--set", "federation.replication=2", "--set", "model.qk_norm=none",
                       "--set", "model.moe.bias_update=0"};

Command with(Command words, const Command& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

}  // namespace

TEST_CASE("the union model is exported under the names of its architecture, in any type") {
    const Workplace place;
    place.trained(place.train(kPair, with(kMixtral, {"--set", "name=pair"})));
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

    // What is exported in f32 is what a checkpoint has.
    CHECK(differing(tree(place.checkpoint("pair", 12) / "model"), tree(home / "f32")).empty());
    const SafetensorsFile f32(home / "f32/model.safetensors"), half(home / "f16/model.safetensors"),
        brain(home / "bf16/model.safetensors");
    for (const char* name : {"model.layers.0.block_sparse_moe.experts.1.w2.weight",
                             "model.layers.1.block_sparse_moe.gate.weight", "lm_head.weight"}) {
        REQUIRE(f32.entries().at(name).dtype == "F32");
        REQUIRE(brain.entries().at(name).dtype == "BF16");
        REQUIRE(half.entries().at(name).dtype == "F16");
        const std::vector<float> values = values_of(f32, name), rounded = values_of(brain, name),
                                 halved = values_of(half, name);
        for (size_t i = 0; i < values.size(); ++i) {
            CHECK(rounded[i] == to_f32(to_bf16(values[i])));
            CHECK(halved[i] == static_cast<float>(static_cast<_Float16>(values[i])));
        }
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

    // A step of no size behind the start: each group has its experts, and a round leaves them so.
    write_text(home / "bf16/tokenizer.json", "of another program");
    const Command start{"--set", "name=next",
                        "--set", "model.from_hf=hf/bf16",
                        "--set", "train.steps=1",
                        "--set", "train.optimizer.warmup=0",
                        "--set", "train.optimizer.lr=1e-30",
                        "--set", "train.optimizer.min_lr=1e-30",
                        "--set", "train.optimizer.weight_decay=0"};
    Command words = place.train(kPair, with(kMixtral, start));
    words = with(words, {"--set", "federation.replication=1"});
    const Outcome begun = place.trained(words);
    CHECK(count(begun.err, "weights of a mixtral model in ") == 1);
    const fs::path next = place.checkpoint("next", 1) / "model";
    const SafetensorsFile trained(next / "model.safetensors");
    CHECK(trained.entries().size() == brain.entries().size());
    for (const auto& [name, tensor] : brain.entries()) {
        INFO(name);
        const std::vector<float> from = values_of(brain, name), to = values_of(trained, name);
        const auto same = [](float a, float b) { return std::abs(a - b) < 1e-20f; };
        CHECK(std::ranges::equal(from, to, same));
    }
    CHECK(read_text(next / "tokenizer.json") == "of another program");
    CHECK(Json::parse(read_text(next / "config.json")).at("eos_token_id") == 256);
    CHECK(place.run({program("fomoe-eval"), "runs/next", "--export", "hf/again"}).exit == 0);
    CHECK(read_text(home / "again/tokenizer.json") == "of another program");

    const auto refused = [&](const Command& more) {
        return place.run(with(words, with({"--set", "name=refused"}, more)));
    };
    const Outcome other = refused({"--set", "model.n_heads=2"});
    CHECK(other.exit == 2);
    CHECK_THAT(other.err, Contains("--set: error: model.n_heads: 2, but ") &&
                              Contains("hf/bf16/config.json has 4; leave the key out"));
    const Outcome missing = refused({"--set", "model.moe.bias_update=0.001"});
    CHECK(missing.exit == 3);
    CHECK_THAT(missing.err, Contains("hf/bf16: no file has the tensor "
                                     "'model.layers.0.mlp.gate.e_score_correction_bias'"));
    CHECK_FALSE(fs::exists(place.run_directory("refused")));
    fs::remove_all(home / "bf16");
    const Outcome gone = place.run(words);
    CHECK(gone.exit == 2);
    CHECK_THAT(gone.err, Contains("hf/bf16/config.json: there is no such file"));
    CHECK(place.run({program("fomoe-eval"), "runs/next", "--export", "hf/later"}).exit == 0);
}

TEST_CASE("a model that no architecture computes says which keys are in the way") {
    const Workplace place;
    const Outcome trained = place.trained(place.train(
        kSolo, {"--set", "name=odd", "--set", "model.moe.expert=mlp", "--set", "train.steps=2"}));
    const Outcome result = place.run({program("fomoe-eval"), "runs/odd", "--export", "out"});
    CHECK(result.exit == 2);
    CHECK_THAT(result.err, Contains("model.moe.expert: swiglu"));
    CHECK(count(trained.err, "names of its own: no Hugging Face architecture") == 1);
    CHECK(
        Json::parse(read_text(place.checkpoint("odd", 2) / "model/config.json")).at("model_type") ==
        "fomoe");
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
