#include "checkpoint/model_files.h"

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "checkpoint/load.h"
#include "checkpoint/small_run.h"
#include "checkpoint/support.h"

using namespace fomoe;
using namespace fomoe::test;
namespace fs = std::filesystem;

TEST_CASE("a model that an architecture has is its directory, and is read by our names") {
    const TempDirectory run;
    Config config = small_config(1);
    config.model.moe.bias_update = 0;
    const fs::path step = save_small(run / "checkpoints", 3, config, {.max_file_bytes = 6000});
    const auto index = nlohmann::json::parse(bytes_of(step / "model/model.safetensors.index.json"));
    const std::string name = "model.layers.1.block_sparse_moe.experts.5.w2.weight";
    const fs::path file = step / "model" / index["weight_map"].at(name).get<std::string>();
    CHECK(SafetensorsFile(file).entries().contains(name));
    const auto about = nlohmann::json::parse(bytes_of(step / "model/config.json"));
    CHECK(about["architectures"][0] == "MixtralForCausalLM");
    CHECK(about["eos_token_id"] == 256);
    const auto generation = nlohmann::json::parse(bytes_of(step / "model/generation_config.json"));
    CHECK(generation["eos_token_id"] == 256);
    CHECK(fs::exists(step / "model/tokenizer.json"));
    CHECK(damages(step).empty());

    SmallRank owner(config, 4);
    owner.fill(3);
    ArenaLayout layout = owner.layout;
    std::vector<float> read(layout.size());
    load_union(Checkpoint(step), layout, view(read.data(), Shape(layout.size())));
    const Parameter& p = layout.find("model.layers.1.mlp.experts.5.down_proj.weight");
    for (int64_t i = p.offset; i < p.offset + p.count(); ++i) CHECK(read[i] == owner.weights[i]);
}

TEST_CASE("a tokenizer of another program goes with the model as it is") {
    const TempDirectory run, source;
    Config config = small_config(1);
    config.model.moe.bias_update = 0;
    put_bytes(source / "tokenizer.json", "not ours \x01");
    put_bytes(source / "config.json", R"({"bos_token_id": null, "eos_token_id": [7, 9], "x": 1})");
    config.model.from_hf = fs::path(source);
    run_ranks(config.topology.n_ranks(), [&](Communicator& comm) {
        const SmallRank self(config, comm.rank());
        int64_t step = 1;
        CheckpointState state = small_state(config, self, step);
        state.tokenizer = tokenizer_of(config.model);
        save_checkpoint(comm, run, state);
    });
    const fs::path model = run / "step-00000001/model";
    CHECK(bytes_of(model / "tokenizer.json") == "not ours \x01");
    CHECK_FALSE(fs::exists(model / "tokenizer_config.json"));
    const auto about = nlohmann::json::parse(bytes_of(model / "config.json"));
    CHECK(about["eos_token_id"] == std::vector<int>{7, 9});
    CHECK(about["bos_token_id"].is_null());
    const ForeignTokenizer again = tokenizer_of(model);
    CHECK(again.files.size() == 1);
    CHECK(nlohmann::json::parse(again.special_ids)["eos_token_id"][1] == 9);
}

TEST_CASE("the tokenizer of another program is not taken for bytes") {
    const TempDirectory run;
    Config config = small_config(1);
    config.model.moe.bias_update = 0;
    const fs::path model = save_small(run / "checkpoints", 3, config, {}) / "model";
    CHECK_NOTHROW(refuse_foreign_tokenizer(model, config));
    atomic_write_file(model / "tokenizer.json", "{}");
    CHECK_THROWS_AS(refuse_foreign_tokenizer(model, config), Error);
    config.model.tokenizer = "elsewhere";  // it says itself what it is
    CHECK_NOTHROW(refuse_foreign_tokenizer(model, config));
}
