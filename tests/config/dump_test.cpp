#include "config/dump.h"

#include "config/config_files.h"

using namespace fomoe;
namespace fs = std::filesystem;

TEST_CASE("a minimal dump has what is not the default, and loads to the same") {
    CHECK(dump_minimal(load("data: {sources: {a: /x}}\ntrain: {steps: 1000, batch: 8}\n")) ==
          "data:\n  sources: {a: /x}\ntrain:\n  batch: 8\n");
    const Config config = load(kSources + R"(
topology: {groups: [{name: west, ranks: 2}, {name: east, data: {a: 2}}]}
federation: {expert: {outer: {lr: 0.7}}, router: {local_steps: 64}}
)");
    const std::string text = dump_minimal(config);
    CHECK(text.find("    - {name: west, ranks: 2}\n    - {name: east, data: {a: 2}}\n") !=
          std::string::npos);
    CHECK(text.find("model") == std::string::npos);
    CHECK(config.federation.expert_named);
    CHECK(load(text) == config);
}

TEST_CASE("a dump says where each value comes from, and loads to the same") {
    Files files;
    const std::string path = files.add("a\nb.yaml", kSources +
                                                        "train: {steps: 1Mt}\n"
                                                        "topology: {groups: [{name: x}]}\n"
                                                        "federation: {shared: {outer: {lr: 1}}}\n");
    const LoadedConfig loaded = load_with_origins({path}, {"seed=3"});
    const std::string text = dump_with_origins(loaded.config, loaded.origins);
    const std::string shown = files.path() + "/a?b.yaml";
    const auto has = [&](const std::string& line) {
        INFO(line);
        CHECK(text.find(line + "\n") != std::string::npos);
    };
    has("seed: 3  # --set");
    has("  steps: 245  # " + shown + ":2:16 (1Mt)");
    has("  batch: 16  # default");
    has("    - {name: x, ranks: 1, expert_parallel: 1, data: {}}  # " + shown + ":3:21");
    has("      lr: 1  # " + shown + ":4:35");
    has("      momentum: 0.9  # as federation.outer.momentum");
    CHECK(load(text) == loaded.config);
}

TEST_CASE("a tokenizer is a word or a path, and counts by what the file holds") {
    Files files;
    const fs::path model = files.add("tokenizers/own.model", "{}");
    const fs::path copy = files.add("copy/own.model", "{}"), other = files.add("other", "[]");
    const auto with = [](const fs::path& from, const std::string& tokenizer) {
        Files config;
        config.add("a.yaml",
                   kSources + "model: {tokenizer: \"" + (from / tokenizer).string() + "\"}\n");
        return config.load();
    };
    CHECK(Files().load({"data.sources.a=a"}).model.tokenizer == "bytes");
    const Config own = with(model.parent_path(), "../tokenizers/own.model");
    CHECK(own.model.tokenizer == model);
    Files relative;
    const fs::path file = relative.add("configs/a.yaml", kSources + "model: {tokenizer: ../b/c}\n");
    CHECK(relative.load().model.tokenizer == file.parent_path().parent_path() / "b/c");
    CHECK(config_fingerprint(own) == config_fingerprint(with(copy.parent_path(), "own.model")));
    CHECK(config_fingerprint(own) != config_fingerprint(with(other.parent_path(), "other")));
    CHECK(Files().errors({"data.sources.a=a", "model.tokenizer=''"}) ==
          "--set: error: model.tokenizer: ''; 'bytes' or a path is expected\n"
          "1 error; nothing was started.");
}
