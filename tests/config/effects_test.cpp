// Keys that do nothing in a config: refused, or warned about, each where it stands.
#include <set>

#include "config/config_files.h"
#include "config/dump.h"
#include "config/schema.h"

using namespace fomoe;

namespace {

const std::string kTwo = "topology.groups=[{name: a}, {name: b}]";
const std::string kFull = "federation.replication=2";
const std::string kDense = "model.moe={first_dense_layers: 4, d_dense: 8}";

// A setting that does nothing behind the others, and why; it acts once `cured` is set, too.
struct Case {
    std::vector<std::string> others;
    std::string setting;
    std::string why;
    std::vector<std::string> cured;
};

const std::string kNoExperts = "in a model without a layer of routed experts";
const std::string kOneGroup = "in a federation of one group";
const std::string kNothingAbsent = "where every group holds every expert";
const std::string kOneShard = "while expert_parallel is 1 in every group";
const std::string kSharded = "topology.groups=[{name: a, ranks: 2, expert_parallel: 2}]";

const Case kWarnings[] = {
    {{"model.rotary_fraction=0"},
     "model.rope_theta=5",
     "with model.rotary_fraction: 0",
     {"model.rotary_fraction=0.5"}},
    {{kDense}, "model.moe.n_experts=8", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.top_k=1", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.d_expert=8", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.n_shared_experts=1", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.router=sigmoid", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.normalize_top_k=false", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.top_k_scale=2", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.aux_loss=0.5", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.z_loss=0.5", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.bias_update=0.5", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense}, "model.moe.aux_scope=sequence", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{"model.moe.aux_loss=0"},
     "model.moe.aux_scope=sequence",
     "with model.moe.aux_loss: 0 and model.moe.bias_update: 0",
     {"model.moe.bias_update=0.1"}},
    {{}, "train.two_batch_overlap=true", kOneShard, {kSharded}},
    {{}, "train.dispatch_factor=3", kOneShard, {kSharded}},
    {{"train.optimizer.schedule=constant"},
     "train.optimizer.min_lr=1e-5",
     "with train.optimizer.schedule: constant",
     {"train.optimizer.schedule=linear"}},
    {{kDense}, "train.optimizer.router.lr_scale=2", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense},
     "train.optimizer.router.weight_decay=2",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kDense}, "train.optimizer.expert.lr_scale=2", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kDense},
     "train.optimizer.expert.weight_decay=2",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kFull}, "federation.placement=rotate", kNothingAbsent, {"federation.replication=1"}},
    {{kTwo, kDense}, "federation.absent=reroute", kNoExperts, {"model.moe.first_dense_layers=3"}},
    {{kTwo, kFull}, "federation.absent=reroute", kNothingAbsent, {"federation.replication=1"}},
    {{}, "federation.absent=reroute", kNothingAbsent, {kTwo}},
    {{kTwo, kDense},
     "federation.affinity_loss=0.1",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kFull}, "federation.affinity_loss=0.1", kNothingAbsent, {"federation.replication=1"}},
    {{}, "federation.weights=tokens", kOneGroup, {kTwo}},
    {{}, "checkpoint.async=true", "with checkpoint.every: 0", {"checkpoint.every=30min"}},
    {{"checkpoint.keep=0"},
     "checkpoint.keep_every=2",
     "with checkpoint.keep: 0",
     {"checkpoint.keep=1"}},
    {{"checkpoint.keep=0", "federation.evaluate_every=1"},
     "checkpoint.keep_best=2",
     "with checkpoint.keep: 0",
     {"checkpoint.keep=1"}},
    {{},
     "checkpoint.keep_best=2",
     "with federation.evaluate_every: 0",
     {"federation.evaluate_every=1"}},
    {{kTwo, "federation.outer.optimizer=average"},
     "federation.outer.lr=0.5",
     "with federation.outer.optimizer: average",
     {"federation.expert.outer.optimizer=nesterov"}},
    {{kTwo, "federation.outer.optimizer=average"},
     "federation.outer.momentum=0.5",
     "with federation.outer.optimizer: average",
     {"federation.outer.optimizer=nesterov"}},
    {{}, "federation.outer.lr=0.5", kOneGroup, {kTwo}},
    {{}, "federation.outer.momentum=0.5", kOneGroup, {"federation.shared.outer.lr=0.7"}},
    {{"federation.shared.outer.optimizer=average"},
     "federation.shared.outer.lr=0.5",
     "with federation.shared.outer.optimizer: average",
     {"federation.shared.outer.optimizer=nesterov"}},
    {{"federation.shared.outer.optimizer=average"},
     "federation.shared.outer.momentum=0.5",
     "with federation.shared.outer.optimizer: average",
     {"federation.shared.outer.optimizer=nesterov"}},
    {{"federation.router.outer.optimizer=average"},
     "federation.router.outer.lr=0.5",
     "with federation.router.outer.optimizer: average",
     {"federation.router.outer.optimizer=nesterov"}},
    {{"federation.router.outer.optimizer=average"},
     "federation.router.outer.momentum=0.5",
     "with federation.router.outer.optimizer: average",
     {"federation.router.outer.optimizer=nesterov"}},
    {{"federation.expert.outer.optimizer=average"},
     "federation.expert.outer.lr=0.5",
     "with federation.expert.outer.optimizer: average",
     {"federation.expert.outer.optimizer=nesterov"}},
    {{"federation.expert.outer.optimizer=average"},
     "federation.expert.outer.momentum=0.5",
     "with federation.expert.outer.optimizer: average",
     {"federation.expert.outer.optimizer=nesterov"}},
    {{kTwo, kDense},
     "federation.router.local_steps=64",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kDense},
     "federation.expert.local_steps=64",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kDense},
     "federation.router.outer.optimizer=average",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kDense},
     "federation.router.outer.lr=0.5",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kDense},
     "federation.router.outer.momentum=0.5",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kDense},
     "federation.expert.outer.optimizer=average",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kDense},
     "federation.expert.outer.lr=0.5",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kDense},
     "federation.expert.outer.momentum=0.5",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kDense},
     "federation.router.average=owners",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{kTwo, kFull},
     "federation.router.average=owners",
     "where every group holds every expert and has the same weight",
     {"federation.weights=tokens"}},
    {{}, "federation.inner_state=reset", kOneGroup, {kTwo}},
    {{}, "federation.reject_above=3", kOneGroup, {kTwo}},
    {{}, "federation.probe_sequences=2", kOneGroup, {kTwo}},
    {{kTwo, kDense},
     "federation.probe_sequences=2",
     kNoExperts,
     {"model.moe.first_dense_layers=3"}},
    {{}, "federation.exchange_timeout=30", "with one rank", {kTwo}},
    {{}, "train.collective_timeout=30", "with one rank", {kTwo}},
    {{},
     "train.bad_step.most=3",
     "with train.bad_step.action: stop",
     {"train.bad_step.action=skip"}},
    {{}, "calibration.weights=shared", "with calibration.steps: 0", {"calibration.steps=3"}},
    {{}, "calibration.lr=0.5", "with calibration.steps: 0", {"calibration.steps=3"}},
    {{kTwo}, "calibration.local_steps=2", "with calibration.steps: 0", {"calibration.steps=3"}},
    {{"calibration.steps=3"}, "calibration.local_steps=2", kOneGroup, {kTwo}},
};

const Case kErrors[] = {
    {{}, "model.moe.activation=gelu", "with model.moe.expert: swiglu", {"model.moe.expert=mlp"}},
    {{},
     "model.moe.d_dense=8",
     "with model.moe.first_dense_layers: 0",
     {"model.moe.first_dense_layers=1"}},
    {{},
     "topology.experts.solo=[0-15]",
     "with federation.placement: blocks",
     {"federation.placement=explicit"}},
    {{"topology.experts.solo=[0-15]", "federation.placement=explicit"},
     "federation.replication=1",
     "with federation.placement: explicit",
     {}},
    {{kTwo, kFull},
     "federation.replication_warmup=2",
     "where every group holds every expert anyway",
     {"federation.replication=1"}},
    {{kTwo},
     "federation.max_renormalize=3",
     "with federation.absent: skip",
     {"federation.absent=renormalize"}},
    {{kTwo}, "federation.refresh=1", "with federation.absent: skip", {"federation.absent=proxy"}},
    {{kTwo, "federation.absent=proxy"},
     "federation.affinity_loss=0.1",
     "with federation.absent: proxy",
     {"federation.absent=reroute"}},
    {{},
     "federation.first_moment.local_steps=64",
     "with federation.inner_state: keep",
     {"federation.inner_state=average"}},
    {{},
     "federation.second_moment.local_steps=64",
     "with federation.inner_state: keep",
     {"federation.inner_state=average"}},
};

std::vector<std::string> all_of(const Case& c, bool cured) {
    std::vector<std::string> sets = c.others;
    sets.push_back(c.setting);
    if (cured) sets.insert(sets.end(), c.cured.begin(), c.cured.end());
    return sets;
}

std::string key_of(const Case& c) { return c.setting.substr(0, c.setting.find('=')); }

std::string said(const Case& c, const char* kind) {
    const std::string key = key_of(c);
    const bool entry = key.starts_with("topology.experts.");
    return "--set: " + std::string(kind) + ": " + (entry ? "topology.experts" : key) +
           ": has no effect " + c.why;
}

LoadedConfig loaded(const std::vector<std::string>& sets) {
    Files files;
    const std::string path = files.add("a.yaml", kSources);
    return load_with_origins({path}, sets);
}

}  // namespace

TEST_CASE("a key that does nothing is warned about, and not once it acts") {
    for (const Case& c : kWarnings) {
        INFO(c.setting << " " << c.why);
        CHECK(loaded(all_of(c, false)).warnings == std::vector{said(c, "warning")});
        const std::vector<std::string> cured = loaded(all_of(c, true)).warnings;
        CHECK(std::ranges::none_of(cured, [&](const std::string& line) {
            return line.find(key_of(c) + ":") != line.npos;
        }));
        // The dump says the same again, and loads to the same.
        const Config config = loaded(all_of(c, false)).config;
        Files dump;
        const std::string path = dump.add("dump.yaml", dump_config(config));
        const LoadedConfig again = load_with_origins({path});
        CHECK(again.config == config);
        REQUIRE(again.warnings.size() == 1);
        CHECK(again.warnings[0].find(said(c, "warning").substr(5)) != std::string::npos);
    }
}

TEST_CASE("a key that is not part of a config is refused, and not where it is") {
    for (const Case& c : kErrors) {
        INFO(c.setting << " " << c.why);
        CHECK(errors(kSources, all_of(c, false)) == one_error(said(c, "error")));
        if (!c.cured.empty())
            CHECK(errors(kSources, all_of(c, true)).find(key_of(c) + ": has no effect") ==
                  std::string::npos);
    }
}

TEST_CASE("every effect of every key has its case above") {
    std::set<std::string> covered;
    for (const Case& c : kWarnings) covered.insert(key_of(c) + " " + c.why);
    for (const Case& c : kErrors) {
        const std::string key = key_of(c);
        covered.insert((find_key(key) ? key : key.substr(0, key.rfind('.'))) + " " + c.why);
    }
    size_t effects = 0;
    for (const Key& key : config_keys())
        for (const Effect& effect : key.effects) {
            ++effects;
            const std::string by =
                effect.decided_by.empty() ? effect.words : "with " + effect.decided_by[0] + ": ";
            INFO(key.path << " " << by);
            const auto found = covered.lower_bound(key.path + " " + by);
            CHECK((found != covered.end() && found->starts_with(key.path + " " + by)));
        }
    CHECK(effects >= 60);
}

TEST_CASE("the default of a key that does nothing is let pass") {
    CHECK(loaded({"calibration.lr=3e-3", "federation.outer.lr=0.7", "train.dispatch_factor=2"})
              .warnings.empty());
    CHECK(loaded({"model.moe.activation=silu", "model.moe.d_dense=0"}).warnings.empty());
}

TEST_CASE("what is itself wrong decides nothing") {
    CHECK(errors(kSources, {"model.moe.expert=fast", "model.moe.activation=gelu"}) ==
          one_error("--set: error: model.moe.expert: 'fast'; one of swiglu, mlp is expected"));
}

TEST_CASE("keys of a GPU say so on a CPU") {
    CHECK(gpu_only_warnings(loaded({"train.tf32=true", "train.cuda_graphs=false"})) ==
          std::vector<std::string>{"--set: warning: train.tf32: has no effect on a CPU",
                                   "--set: warning: train.cuda_graphs: has no effect on a CPU"});
    CHECK(gpu_only_warnings(loaded({"train.tf32=false", "train.cuda_graphs=true"})).empty());
    CHECK(gpu_only_warnings(loaded({})).empty());
}
