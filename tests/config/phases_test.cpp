#include "config/phases.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "config/dump.h"
#include "config/load.h"
#include "config/validate.h"
#include "support/temporary_directory.h"

using namespace fomoe;

namespace {

// Four groups, rounds of 32 steps, 1000 steps; every rule holds.
Config four_groups() {
    Config config;
    config.data.sources = {{"a", "/a"}};
    config.topology.groups.clear();
    for (const char* name : {"a", "b", "c", "d"})
        config.topology.groups.push_back({.name = name, .data = {}});
    config.federation.replication = 2;
    return config;
}

std::string problem(const std::function<void(FederationConfig&)>& change) {
    Config config = four_groups();
    change(config.federation);
    const std::vector<Problem> problems = validate(config);
    if (problems.size() != 1) return "problems: " + std::to_string(problems.size());
    return problems[0].path + ": " + problems[0].message;
}

const std::string kFile =
    "data: {sources: {a: x/a}}\n"
    "topology: {groups: [{name: a}, {name: b}]}\n"
    "federation:\n";

void write_file(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

Config load(const std::string& federation) {
    const TemporaryDirectory directory;
    write_file(directory / "a.yaml", kFile + federation);
    return load_config({directory / "a.yaml"});
}

// The one message, from its line and column on.
std::string error(const std::string& federation) {
    try {
        load(federation);
    } catch (const Error& e) {
        const std::string text = e.what();
        const std::string line = text.substr(text.find("a.yaml:") + 7);
        REQUIRE(line.find("1 error; nothing was started.") != std::string::npos);
        return line.substr(0, line.find('\n'));
    }
    return "no error";
}

}  // namespace

TEST_CASE("a run without schedule and warm-up is one phase") {
    const Config config = four_groups();
    const std::vector<Phase> phases = phases_of(config);
    REQUIRE(phases.size() == 1);
    CHECK(phases[0].begin == 0);
    CHECK(phases[0].end == std::numeric_limits<int64_t>::max());
    CHECK_FALSE(phases[0].full_replicas);
    CHECK(phases[0].federation == config.federation);
}

TEST_CASE("a schedule and a warm-up cut the run") {
    Config config = four_groups();
    config.federation.schedule = {{160, 64}, {480, 8}};
    config.federation.replication_warmup = 2;
    config.federation.outer = {.optimizer = OuterKind::nesterov, .lr = 0.7, .momentum = 0.9};
    config.federation.shared = config.federation.router = config.federation.outer;
    config.federation.expert = {.optimizer = OuterKind::nesterov, .lr = 0.4, .momentum = 0.5};
    CHECK(validate(config).empty());
    const std::vector<Phase> phases = phases_of(config);
    REQUIRE(phases.size() == 4);
    const int64_t ends[] = {64, 160, 480, std::numeric_limits<int64_t>::max()};
    const int steps[] = {32, 32, 64, 8};
    for (int i = 0; i < 4; ++i) {
        CAPTURE(i);
        const FederationConfig& f = phases[i].federation;
        CHECK(phases[i].begin == (i ? ends[i - 1] : 0));
        CHECK(phases[i].end == ends[i]);
        CHECK(phases[i].full_replicas == (i == 0));
        CHECK(f.replication == (i == 0 ? 4 : 2));
        CHECK(f.local_steps == steps[i]);
        CHECK(f.schedule.empty());
        CHECK(f.replication_warmup == 0);
        const double share = steps[i] / 32.0;
        CHECK(f.shared.momentum == std::pow(0.9, share));
        CHECK(f.shared.lr == Approx(0.7 * (1 - std::pow(0.9, share)) / 0.1));
        CHECK(f.expert.momentum == std::pow(0.5, share));
        CHECK(phase_of(config, phases[i].begin + 1).begin == phases[i].begin);
        CHECK(phase_of(config, phases[i].end).begin == phases[i].begin);
    }
    CHECK(phases[1].federation.shared == config.federation.shared);  // to the bit
    CHECK(phase_of(config, 0).full_replicas);
}

TEST_CASE("the warm-up may end where the schedule begins, and replaces any placement") {
    Config config = four_groups();
    config.federation.placement = PlacementKind::explicit_lists;
    config.federation.replication_warmup = 3;
    config.federation.schedule = {{96, 16}};
    config.federation.router_steps = 0;
    config.topology.experts = {
        {"a", {0, 1, 2, 3}}, {"b", {4, 5, 6, 7}}, {"c", {8, 9, 10, 11}}, {"d", {12, 13, 14, 15}}};
    CHECK(validate(config).empty());
    const std::vector<Phase> phases = phases_of(config);
    REQUIRE(phases.size() == 2);
    CHECK(phases[0].federation.placement == PlacementKind::blocks);
    CHECK(phases[0].federation.replication == 4);
    CHECK(phases[0].end == 96);
    CHECK(phases[1].federation.placement == PlacementKind::explicit_lists);
    CHECK(phases[1].federation.local_steps == 16);
}

TEST_CASE("rules of the phases fill in their numbers") {
    CHECK(problem([](FederationConfig& f) {
              f.schedule = {{150, 64}};
          }) ==
          "federation.schedule.150: no round ends there: before it they end every 32 steps after "
          "step 0 (160 would do)");
    CHECK(problem([](FederationConfig& f) {
              f.schedule = {{8, 64}};
          }).find("(32 would do)") != std::string::npos);
    CHECK(problem([](FederationConfig& f) {
              f.schedule = {{160, 64}, {320, 128}};
          }) ==
          "federation.schedule.320: no round ends there: before it they end every 64 steps after "
          "step 160 (352 would do)");
    CHECK(problem([](FederationConfig& f) {
              f.schedule = {{160, 64}, {352, 7}};
          }) == "problems: 0");
    CHECK(problem([](FederationConfig& f) {
              f.schedule = {{1024, 64}};
          }) == "federation.schedule.1024: the run ends at step 1000");
    CHECK(problem([](FederationConfig& f) {
              f.schedule = {{160, 64}};
              f.router_steps = 64;
          }) ==
          "federation.schedule: cannot be combined with federation.router.local_steps; leave one "
          "of them out");

    CHECK(problem([](FederationConfig& f) { f.replication_warmup = 31; }) == "problems: 0");
    CHECK(problem([](FederationConfig& f) { f.replication_warmup = 32; }) ==
          "federation.replication_warmup: 32 rounds of 32 steps end at step 1024, and the run at "
          "step 1000; give fewer, or a longer run, or full replicas for all of it "
          "(federation.replication: 4)");
    CHECK(problem([](FederationConfig& f) {
              f.replication_warmup = 3;
              f.expert_steps = 64;
              f.router_steps = 8;
          }) ==
          "federation.replication_warmup: 3 rounds of 32 steps end at step 96, inside a period of "
          "federation.expert.local_steps 64 (2 rounds would do, or a multiple)");
    CHECK(problem([](FederationConfig& f) {
              f.replication_warmup = 6;
              f.schedule = {{160, 64}};
          }) ==
          "federation.replication_warmup: 6 rounds of 32 steps end at step 192, after step 160 "
          "where federation.schedule begins (5 rounds at most)");
}

TEST_CASE("phases are read, dumped, part of the fingerprint and refused where they stand") {
    const Config config = load("  schedule: {160: 64, 480: 128}\n  replication_warmup: 2\n");
    CHECK(config.federation.schedule == std::map<int64_t, int>{{160, 64}, {480, 128}});
    CHECK(config.federation.replication_warmup == 2);
    const TemporaryDirectory directory;
    write_file(directory / "dump.yaml", dump_config(config));
    CHECK(load_config({directory / "dump.yaml"}) == config);
    CHECK(load_config({directory / "dump.yaml"}, {"federation.schedule.480=16"})
              .federation.schedule.at(480) == 16);

    const uint64_t base = config_fingerprint(load("  local_steps: 32\n"));
    CHECK(config_fingerprint(load("  schedule: {160: 64}\n")) != base);
    CHECK(config_fingerprint(load("  schedule: {160: 64}\n")) !=
          config_fingerprint(load("  schedule: {160: 32}\n")));
    CHECK(config_fingerprint(load("  replication_warmup: 2\n")) != base);
    CHECK(config_fingerprint(load("  replication_warmup: 2\n")) !=
          config_fingerprint(load("  replication_warmup: 3\n")));

    CHECK(error("  schedule: {160: 64, 170: 8}\n") ==
          "4:23: error: federation.schedule.170: no round ends there: before it they end every 64 "
          "steps after step 160 (224 would do)");
    CHECK(error("  schedule: {160: 0}\n") ==
          "4:19: error: federation.schedule.160: '0'; an integer of at least 1 is expected");
    CHECK(error("  schedule: {160: [1]}\n") ==
          "4:19: error: federation.schedule.160: a list; an integer of at least 1 is expected");
    CHECK(error("  schedule: {soon: 8}\n") ==
          "4:14: error: federation.schedule.soon: 'soon' is no step; an integer of at least 1 is "
          "expected");
    CHECK(error("  schedule: {0: 8}\n") ==
          "4:14: error: federation.schedule.0: '0' is no step; an integer of at least 1 is "
          "expected");
    CHECK(error("  schedule: 64\n") ==
          "4:13: error: federation.schedule: '64' where names and values are expected");
    CHECK(error("  schedule: {64: 32}\n  shared: {local_steps: 64}\n") ==
          "4:3: error: federation.schedule: cannot be combined with federation.shared.local_steps; "
          "leave one of them out");
    CHECK(error("  replication_warmup: 32\n")
              .find("4:23: error: federation.replication_warmup: 32 rounds of 32 steps end at") ==
          0);
    CHECK(error("  replication: 2\n  replication_warmup: 1\n") ==
          "5:23: error: federation.replication_warmup: has no effect where every group holds every "
          "expert anyway");
    CHECK(error("  replication_warmup: -1\n") ==
          "4:23: error: federation.replication_warmup: '-1'; an integer of at least 0 is expected");
}
