#include "config/load.h"

#include <catch2/catch.hpp>

#include "config/config_files.h"
#include "config/dump.h"
#include "config/schema.h"

using namespace fomoe;
namespace fs = std::filesystem;

TEST_CASE("values of every kind are read") {
    const Config config = load(R"(
name: a-run
seed: 18446744073709551615
model:
  d_model: 128
  rope_theta: 1e6
  tie_embeddings: true
  qk_norm: head
  moe: {top_k: 3, aux_loss: 1.5e-3, aux_scope: sequence, router: sigmoid}
data:
  sources: {b: ../b, a: /abs/a}
train:
  steps: 5000000000
  optimizer: {warmup: 7, schedule: linear, expert: {lr_scale: 0.5}}
topology:
  groups:
    - {name: west, ranks: 2, expert_parallel: 2, data: {a: 3, b: 1}}
    - name: east
)");
    CHECK(config.name == "a-run");
    CHECK(config.seed == 18446744073709551615ull);
    CHECK(config.model.d_model == 128);
    CHECK(config.model.rope_theta == 1e6);
    CHECK(config.model.tie_embeddings);
    CHECK(config.model.qk_norm == QkNorm::head);
    CHECK(config.model.moe.top_k == 3);
    CHECK(config.model.moe.aux_loss == 1.5e-3);
    CHECK(config.model.moe.aux_scope == AuxScope::sequence);
    CHECK(config.model.moe.router == RouterKind::sigmoid);
    CHECK(config.model.moe.n_experts == MoeConfig{}.n_experts);
    CHECK(config.data.sources.at("a") == "/abs/a");
    CHECK(config.train.steps == 5000000000);
    CHECK(config.train.optimizer.schedule == LrSchedule::linear);
    CHECK(config.train.optimizer.expert.lr_scale == 0.5);
    CHECK(config.train.optimizer.expert.weight_decay < 0);
    REQUIRE(config.topology.groups.size() == 2);
    CHECK(config.topology.groups[0].ranks == 2);
    CHECK(config.topology.groups[0].data == std::map<std::string, double>{{"a", 3}, {"b", 1}});
    CHECK(config.topology.groups[1].name == "east");
    CHECK(config.topology.groups[1].ranks == 1);
}

TEST_CASE("files merge left to right, then the settings") {
    Files files;
    files.add("base/a.yaml",
              "model: {d_model: 64, n_layers: 2}\n"
              "data: {sources: {a: a, b: b}}\n"
              "topology: {groups: [{name: x, ranks: 4}, {name: y}]}\n");
    files.add("b.yaml",
              "model: {n_layers: 3}\n"
              "data: {sources: {b: sub/b}}\n"
              "topology: {groups: [{name: z}, {name: w, ranks: 2}]}\n");
    const Config config =
        files.load({"topology.groups[1].expert_parallel=2", "model.n_layers=5",
                    "train.optimizer={lr: 0.5, min_lr: 0.25}", "data.sources.c=/c",
                    "topology.groups[0].data.a=2", "name=n"});
    CHECK(config.model.d_model == 64);
    CHECK(config.model.n_layers == 5);
    CHECK(config.data.sources.at("a") == files.path() + "/base/a");
    CHECK(config.data.sources.at("b") == files.path() + "/sub/b");
    CHECK(config.data.sources.at("c") == "/c");
    REQUIRE(config.topology.groups.size() == 2);
    CHECK(config.topology.groups[0].name == "z");
    CHECK(config.topology.groups[0].ranks == 1);
    CHECK(config.topology.groups[0].data == std::map<std::string, double>{{"a", 2}});
    CHECK(config.topology.groups[1].expert_parallel == 2);
    CHECK(config.train.optimizer.lr == 0.5);
    CHECK(config.name == "n");
}

TEST_CASE("a class inherits what it does not name") {
    const Config config = load(kSources + R"(
federation:
  outer: {lr: 0.5, momentum: 0.25}
  router: {local_steps: 64}
  expert: {outer: {momentum: 0.75}}
)");
    CHECK(config.federation.shared == config.federation.outer);
    CHECK_FALSE(config.federation.shared_named);
    CHECK(config.federation.router.momentum == 0.25);
    CHECK_FALSE(config.federation.router_named);
    CHECK(config.federation.router_steps == 64);
    CHECK(config.federation.shared_steps == 0);
    CHECK(config.federation.expert.lr == 0.5);
    CHECK(config.federation.expert.momentum == 0.75);
    CHECK(config.federation.expert_named);
}

TEST_CASE("all errors come at once, each with its place") {
    CHECK(errors(R"(model:
  d_modle: 64
  n_heads: four
  moe:
    topk: 2
    router: hard
    aux_loss: -1
seed: 1
seed: 2
train: {steps: 1_000, batch: 0, optimizer: {beta2: 1}}
data: {sources: {a: x}}
)") == R"(a.yaml:2:3: error: model.d_modle: unknown key (did you mean 'd_model'?)
a.yaml:3:12: error: model.n_heads: 'four'; an integer of at least 1 is expected
a.yaml:5:5: error: model.moe.topk: unknown key (did you mean 'top_k'?)
a.yaml:6:13: error: model.moe.router: 'hard'; one of softmax, sigmoid is expected
a.yaml:7:15: error: model.moe.aux_loss: '-1'; a number of at least 0 is expected
a.yaml:9:1: error: seed: given twice, first in line 8
a.yaml:10:16: error: train.steps: '1_000'; an integer of at least 1 (or 10k, or 5Mt for tokens of one group) is expected
a.yaml:10:30: error: train.batch: '0'; an integer of at least 1 is expected
a.yaml:10:52: error: train.optimizer.beta2: '1'; a number from 0 to below 1 is expected
9 errors; nothing was started.)");
}

TEST_CASE("values that YAML or C++ would bend are refused") {
    const auto bad = [](const std::string& line) {
        INFO(line);
        CHECK_THAT(errors(kSources + line), Catch::EndsWith("1 error; nothing was started."));
    };
    bad("seed: -1");
    bad("seed: 18446744073709551616");
    bad("seed: '7'");
    bad("seed: 010");
    bad("seed: 1e3");
    bad("seed:");
    bad("seed: [1]");
    bad("model: {d_model: 99999999999}");
    bad("model: {tie_embeddings: yes}");
    bad("model: {rope_theta: inf}");
    bad("model: {rope_theta: nan}");
    bad("model: {init_std: 0}");
    bad("model: {rotary_fraction: 1.5}");
    bad("model: 7");
    bad("topology: {groups: {name: x}}");
    bad("topology: {groups: []}");
    bad("topology: {groups: [x]}");
    bad("topology: {groups: [{name: x, data: {a: 0}}]}");
    bad("topology: {groups: [{name: x, data: [a]}]}");
    bad("<<: {seed: 1}");
    CHECK(errors("data: {sources: {a: x, a: y}}") ==
          one_error("a.yaml:1:24: error: data.sources.a: given twice, first in line 1"));
    CHECK(errors("data: {sources: {a: }}") ==
          one_error("a.yaml:1:18: error: data.sources.a: nothing; a path is expected"));
}

TEST_CASE("a known name in the wrong section is found") {
    CHECK(errors(kSources + "top_k: 2\n") ==
          one_error("a.yaml:2:1: error: top_k: unknown key (did you mean 'model.moe.top_k'?)"));
    CHECK(errors(kSources + "qwertyuiop: 2\n") ==
          one_error("a.yaml:2:1: error: qwertyuiop: unknown key"));
}

TEST_CASE("a period that does not fit is refused where it stands") {
    const std::string federation = "federation:\n  local_steps: 8\n  expert: {local_steps: 12}\n";
    CHECK(errors(kSources + federation) ==
          one_error("a.yaml:4:25: error: federation.expert.local_steps: 12 neither divides "
                    "federation.local_steps 8 nor is a multiple of it (1, 2, 4 or 8, or a "
                    "multiple, would do)"));
    CHECK(errors(kSources + "federation: {reject_above: 0.5}\n")
              .find("a.yaml:2:28: error: federation.reject_above: 0.5 medians") == 0);
    CHECK(errors(kSources, {"federation.router.local_steps=0"}) ==
          one_error("--set: error: federation.router.local_steps: '0'; an integer of at least 1 "
                    "is expected"));
}

TEST_CASE("files that are no config") {
    Files files;
    files.add("a.yaml", "");
    files.add("b.yaml", "a: [1\nb: 2\n");
    files.add("c.yaml", "just words\n");
    files.add("d.yaml", kSources + "---\nseed: 1\n");
    const std::string text = files.errors();
    CHECK_THAT(text, Catch::Contains("a.yaml:1:1: error: the file is empty\n"));
    CHECK_THAT(text, Catch::Contains("b.yaml:2:") && Catch::Contains("error: not YAML: "));
    CHECK_THAT(text, Catch::Contains("c.yaml:1:1: error: 'just words' where keys and values"));
    CHECK_THAT(text, Catch::Contains("d.yaml:2:1: error: a second YAML document"));
    try {
        load_config({"/no/such/file.yaml"});
        FAIL("no error");
    } catch (const Error& error) {
        CHECK_THAT(error.what(),
                   Catch::StartsWith("/no/such/file.yaml: error: cannot open: No such"));
    }
}

TEST_CASE("errors of --set") {
    const auto set = [](const std::string& setting) { return errors(kSources, {setting}); };
    CHECK(set("model.moe.topk=2") ==
          one_error("--set: error: model.moe.topk: unknown key (did you mean 'top_k'?)"));
    CHECK(set("modle.moe.top_k=2") ==
          one_error("--set: error: modle.moe.top_k: unknown key (did you mean 'model'?)"));
    CHECK(set("seed=x") ==
          one_error("--set: error: seed: 'x'; an integer of at least 0 is expected"));
    CHECK(set("seed=") ==
          one_error("--set: error: seed: nothing; an integer of at least 0 is expected"));
    CHECK(set("seed") == one_error("--set: error: 'seed' is not key=value"));
    CHECK(set("topology.groups[1].ranks=2") ==
          one_error("--set: error: topology.groups[1].ranks: the groups are [0] to [0]"));
    CHECK(set("topology.groups.ranks=2") ==
          one_error("--set: error: topology.groups.ranks: 'topology.groups' is a list; its first "
                    "element is topology.groups[0]"));
    CHECK(set("seed=[1").find("--set: error: seed: not YAML: ") == 0);
    CHECK(set("model.moe.top_k=99") ==
          one_error("--set: error: model.moe.top_k: 99 is more than the 16 experts"));
}

TEST_CASE("the dump loads to the same config") {
    Config config = load(R"(
name: "1.5"
seed: 7
model: {d_model: 96, n_heads: 3, n_kv_heads: 1, rope_theta: 12345.678, qk_norm: full,
        moe: {expert: mlp, activation: gelu, aux_loss: 1e-9, normalize_top_k: false}}
data: {sources: {a: "x y/\"a\"", b: b}, document_mask: true}
train: {steps: 3, micro_batch: 4, optimizer: {lr: 0.1, min_lr: 0.30000000000000004e-1,
        router: {weight_decay: 0}, expert: {lr_scale: 0.1}}}
topology:
  groups:
    - {name: west, ranks: 2, expert_parallel: 2, data: {a: 0.1, b: 0.7}}
    - {name: east, ranks: 4}
federation: {replication: 2, outer: {optimizer: average}, router: {outer: {optimizer: nesterov}},
             shared: {local_steps: 16}, expert: {local_steps: 96}, reject_above: 2.5,
             inner_state: reset}
checkpoint: {every: 5, keep: 0}
)");
    Files files;
    files.add("dump.yaml", dump_config(config));
    CHECK(files.load() == config);
    CHECK(dump_config(files.load()) == dump_config(config));
    // Numbers that YAML 1.1 takes for numbers too.
    CHECK_THAT(dump_config(config), Catch::Contains("aux_loss: 1.0e-09\n"));
    CHECK_THAT(dump_config(config), Catch::Contains("norm_eps: 1.0e-05\n"));
    CHECK_THAT(dump_config(config), Catch::Contains("rope_theta: 12345.678\n"));
    Files defaults;
    defaults.add("dump.yaml", dump_config(load(kSources)));
    CHECK_NOTHROW(defaults.load());
}

TEST_CASE("what becomes of absent choices is read, dumped and checked") {
    const std::string two = kSources +
                            "topology: {groups: [{name: a}, {name: b}]}\n"
                            "federation:\n  absent: ";
    const Config config =
        load(two + "renormalize\n  max_renormalize: 1.5\n  affinity_loss: 0.05\n");
    CHECK(config.federation.absent == AbsentPolicy::renormalize);
    CHECK(config.federation.max_renormalize == 1.5);
    CHECK(config.federation.affinity_loss == 0.05);
    const Config copies = load(two + "proxy\n  refresh: 3\n");
    CHECK(copies.federation.absent == AbsentPolicy::proxy);
    CHECK(copies.federation.refresh == 3);
    CHECK(load(two + "proxy\n").federation.refresh == 1);
    CHECK(config_fingerprint(copies) != config_fingerprint(load(two + "proxy\n")));
    for (const Config& each :
         {config, load(two + "renormalize\n"), load(two + "reroute\n"), copies}) {
        Files files;
        files.add("dump.yaml", dump_config(each));
        CHECK(files.load() == each);
    }

    CHECK(errors(two + "skip\n  max_renormalize: 1.5\n") ==
          one_error("a.yaml:5:20: error: federation.max_renormalize: has no effect with "
                    "federation.absent: skip"));
    CHECK(errors(two + "sometimes\n  max_renormalize: 1.5\n") ==
          one_error("a.yaml:4:11: error: federation.absent: 'sometimes'; one of skip, renormalize, "
                    "reroute, proxy is expected"));
    CHECK(errors(two + "renormalize\n  max_renormalize: 0.5\n") ==
          one_error("a.yaml:5:20: error: federation.max_renormalize: '0.5'; a number of at least "
                    "1 is expected"));
    CHECK(errors(two + "skip\n  affinity_loss: -1\n") ==
          one_error("a.yaml:5:18: error: federation.affinity_loss: '-1'; a number of at least 0 "
                    "is expected"));
    CHECK(errors(two + "skip\n  refresh: 2\n") ==
          one_error("a.yaml:5:12: error: federation.refresh: has no effect with "
                    "federation.absent: skip"));
    CHECK(errors(two + "proxy\n  refresh: 0\n") ==
          one_error("a.yaml:5:12: error: federation.refresh: '0'; an integer of at least 1 is "
                    "expected"));
    CHECK(errors(two + "proxy\n  affinity_loss: 0.1\n") ==
          one_error("a.yaml:5:18: error: federation.affinity_loss: has no effect with "
                    "federation.absent: proxy"));
    CHECK(errors(two + "reroute\nmodel: {moe: {top_k: 9}}\n") ==
          one_error("a.yaml:4:11: error: federation.absent: reroute needs top_k 9 experts in every "
                    "group, and 'a' holds 8 of 16; lower model.moe.top_k or give the group more "
                    "with federation.replication"));
    CHECK(errors(two + "reroute\nmodel: {moe: {top_k: 17}}\n") ==
          one_error("a.yaml:5:22: error: model.moe.top_k: 17 is more than the 16 experts"));
}

TEST_CASE("a calibration is read, dumped and checked") {
    const Config plain = load(kSources, {});
    CHECK(plain.calibration.steps == 0);
    CHECK(plain.calibration.weights == CalibratedWeights::router);
    CHECK(plain.calibration.local_steps == 1);
    const Config config =
        load(kSources + "calibration: {steps: 60, weights: shared, lr: 0.5, local_steps: 3}\n", {});
    CHECK(config.calibration ==
          CalibrationConfig{
              .steps = 60, .weights = CalibratedWeights::shared, .lr = 0.5, .local_steps = 3});
    CHECK(dump_config(config).find("weights: shared") != std::string::npos);
    const auto refused = [](const std::string& text, const std::string& said) {
        const std::string errors_of = errors(kSources + text);
        INFO(errors_of);
        CHECK(errors_of.find(said) != std::string::npos);
    };
    refused("calibration: {steps: -1}\n", "calibration.steps: '-1'; an integer of at least 0");
    refused("calibration: {weights: all}\n", "calibration.weights: 'all'; one of router, shared");
    refused("calibration: {local_steps: 0}\n",
            "calibration.local_steps: '0'; an integer of at least 1");
    refused("calibration: {step: 3}\n", "did you mean 'steps'?");
    refused(
        "model: {n_layers: 2, moe: {first_dense_layers: 2, d_dense: 8}}\n"
        "calibration: {steps: 5}\n",
        "calibration.steps: all layers are dense");
}

TEST_CASE("the fingerprint follows what changes the training") {
    const auto fingerprint = [](const std::string& set) {
        return config_fingerprint(load("train: {batch: 16}\n" + kSources, {set}));
    };
    const uint64_t base = fingerprint("seed=1");
    for (const char* same :
         {"name=other", "train.steps=7000", "train.log_every=3", "checkpoint.every=9",
          "data.sources.a=/elsewhere/a", "train.micro_batch=4", "topology.groups[0].ranks=2",
          "calibration.steps=60", "calibration.weights=shared", "calibration.lr=0.1",
          "calibration.local_steps=4"})
        CHECK(fingerprint(same) == base);
    for (const char* other :
         {"seed=2", "model.d_model=64", "train.batch=8", "data.sources.b=x/b",
          "topology.groups[0].data.a=1", "federation.outer.lr=0.5",
          "train.optimizer.expert.weight_decay=0", "federation.expert.outer.lr=0.7",
          "federation.shared.local_steps=8", "federation.reject_above=3",
          "federation.absent=reroute", "federation.absent=proxy", "federation.affinity_loss=0.1",
          "federation.inner_state=reset", "federation.weights=tokens",
          "federation.router.average=owners", "model.moe.aux_scope=federation"})
        CHECK(fingerprint(other) != base);
    const auto limited = [](const std::string& limit) {
        return config_fingerprint(load(
            kSources, {"federation.absent=renormalize", "federation.max_renormalize=" + limit}));
    };
    CHECK(limited("3") != limited("2"));
    CHECK(limited("2") == config_fingerprint(load(kSources, {"federation.absent=renormalize"})));
}

TEST_CASE("every key has a type, a default in its range and a help text") {
    Config defaults;
    for (const Key& key : config_keys()) {
        INFO(key.path);
        CHECK_FALSE(key.help.empty());
        CHECK(find_key(key.path) == &key);
        CHECK_FALSE(expected_value(key).empty());
        if (!is_map(key)) CHECK_FALSE(value_text(key, defaults).empty());
    }
}

TEST_CASE("every file under configs loads") {
    int count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(FOMOE_SOURCE_DIR "/configs")) {
        if (entry.path().extension() != ".yaml") continue;
        INFO(entry.path());
        Config config;
        REQUIRE_NOTHROW(config = load_config({entry.path()}));
        CHECK_THAT(config.name, Catch::EndsWith(entry.path().stem()));
        CHECK(load_with_origins({entry.path()}).warnings.empty());
        for (const auto& [name, prefix] : config.data.sources)
            CHECK(prefix == (fs::path(FOMOE_SOURCE_DIR) / "data" / name).lexically_normal());
        ++count;
    }
    CHECK(count >= 6);
}
