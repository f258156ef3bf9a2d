#include "config/validate.h"

#include <catch2/catch.hpp>
#include <functional>

using namespace fomoe;

namespace {

// Two groups of four ranks; every rule holds.
Config good() {
    Config config;
    config.data.sources = {{"a", "/a"}, {"b", "/b"}};
    config.topology.groups = {{.name = "west", .ranks = 4, .expert_parallel = 2},
                              {.name = "east", .ranks = 4}};
    config.train.micro_batch = 4;
    return config;
}

// The only problem after the change, "path: message".
std::string problem(const std::function<void(Config&)>& change) {
    Config config = good();
    change(config);
    const std::vector<Problem> problems = validate(config);
    if (problems.size() != 1) return "problems: " + std::to_string(problems.size());
    return problems[0].path + ": " + problems[0].message;
}

}  // namespace

TEST_CASE("a config without mistakes has no problems") { CHECK(validate(good()).empty()); }

TEST_CASE("model rules fill in their numbers") {
    CHECK(problem([](Config& c) {
              c.model.n_heads = 3;
              c.model.d_model = 8;
              c.model.n_kv_heads = 1;
          }) ==
          "model.n_heads: 3 heads do not divide d_model 8 (1, 2, 4 or 8 would); or give d_head");
    CHECK(problem([](Config& c) { c.model.n_kv_heads = 3; }) ==
          "model.n_kv_heads: 3 does not divide the 4 query heads (1, 2 or 4 would)");
    CHECK(problem([](Config& c) { c.model.d_head = 5; }) ==
          "model.rotary_fraction: 1 of a head of 5 rotates 5 elements, which must be even (0.8 "
          "would, or a head of 6)");
    CHECK(problem([](Config& c) {
              c.model.d_head = 10;
              c.model.rotary_fraction = 0.5;
          }) ==
          "model.rotary_fraction: 0.5 of a head of 10 rotates 5 elements, which must be even (0.4 "
          "would, or a head of 12)");
    CHECK(problem([](Config& c) { c.model.moe.top_k = 17; }) ==
          "model.moe.top_k: 17 is more than the 16 experts");
    CHECK(problem([](Config& c) { c.model.moe.first_dense_layers = 1; }) ==
          "model.moe.first_dense_layers: dense layers need d_dense, their hidden size");
    CHECK(problem([](Config& c) {
              c.model.moe.d_dense = 8;
              c.model.moe.first_dense_layers = 5;
          }) == "model.moe.first_dense_layers: 5 is more than the 4 layers");
    CHECK(problem([](Config& c) { c.model.vocab_size = 256; }) ==
          "model.vocab_size: 256 is less than the 257 ids of the tokenizer 'bytes'; 0 takes its "
          "size");
}

TEST_CASE("group rules fill in their numbers") {
    CHECK(problem([](Config& c) { c.topology.groups[1].expert_parallel = 3; }) ==
          "topology.groups[1].expert_parallel: 3 does not divide the 4 ranks of 'east' (1, 2 or 4 "
          "would)");
    CHECK(problem([](Config& c) { c.topology.groups[1].name = "west"; }) ==
          "topology.groups[1].name: another group is already called 'west'");
    CHECK(problem([](Config& c) {
              c.topology.groups[1].name = "a/b";
          }).find("cannot name a group") != std::string::npos);
    CHECK(problem([](Config& c) { c.topology.groups[1].name = ""; }) ==
          "topology.groups[1].name: missing; every group has a name");
    CHECK(problem([](Config& c) {
              c.topology.groups[0].data = {{"c", 1}};
          }) == "topology.groups[0].data.c: no such source; data.sources has a, b");
    CHECK(problem([](Config& c) { c.name = "../up"; }).find("name: '../up' cannot name") == 0);
    CHECK(problem([](Config& c) { c.data.sources = {}; }).find("data.sources: no source") == 0);
}

TEST_CASE("batch and schedule rules fill in their numbers") {
    CHECK(problem([](Config& c) {
              c.topology.groups[1].ranks = 3;
              c.train.micro_batch = 1;
          }) ==
          "train.batch: 16 sequences do not divide among the 3 ranks of 'east' (1, 2, 4, 8 or "
          "16 ranks would do, or a batch of 15 or 18)");
    CHECK(problem([](Config& c) {
              c.topology.groups.resize(1);
              c.train.micro_batch = 8;
          }) ==
          "train.micro_batch: 8 does not divide the 4 sequences that each rank of 'west' has of "
          "batch 16 (1, 2 or 4 would)");
    CHECK(problem([](Config& c) { c.train.optimizer.warmup = 2000; }) ==
          "train.optimizer.warmup: 2000 is more than the 1000 steps of the run");
    CHECK(problem([](Config& c) { c.train.optimizer.min_lr = 0.5; }) ==
          "train.optimizer.min_lr: 0.5 is more than lr 0.001");
}

TEST_CASE("round rules fill in their numbers") {
    for (int steps : {1, 2, 16, 32, 64, 96}) {
        Config config = good();
        config.federation.router_steps = steps;
        CHECK(validate(config).empty());
    }
    CHECK(problem([](Config& c) { c.federation.router_steps = 12; }) ==
          "federation.router.local_steps: 12 neither divides federation.local_steps 32 nor is a "
          "multiple of it (1, 2, 4, 8, 16 or 32, or a multiple, would do)");
    CHECK(problem([](Config& c) { c.federation.expert_steps = 48; }).find("48 neither divides") !=
          std::string::npos);
    CHECK(problem([](Config& c) { c.federation.shared_steps = 5; }).find("federation.shared.") ==
          0);
    CHECK(problem([](Config& c) { c.federation.reject_above = 0.5; }) ==
          "federation.reject_above: 0.5 medians would leave out the median itself; at least 1, or "
          "0 for no limit");
    CHECK(problem([](Config& c) { c.federation.probe_sequences = 5; }) ==
          "federation.probe_sequences: 5 is more than the 4 sequences of a micro-batch");
    CHECK(problem([](Config& c) {
              c.federation.probe_sequences = 3;
              c.data.valid_sequences = 1;
          }) ==
          "federation.probe_sequences: 3 is more than the 2 held-out sequences of all sources");
    for (int sequences : {0, 4}) {
        Config config = good();
        config.federation.probe_sequences = sequences;
        CHECK(validate(config).empty());
    }
}

TEST_CASE("placement rules fill in their numbers") {
    CHECK(problem([](Config& c) { c.federation.replication = 3; }) ==
          "federation.replication: 3 does not divide the 2 groups (1 or 2 would)");
    CHECK(problem([](Config& c) { c.model.moe.n_experts = 5; }) ==
          "federation.replication: 2 groups with replication 1 hold 2 blocks of experts, which do "
          "not divide n_experts 5 (replication 2 would, or 4 or 6 experts)");
    CHECK(problem([](Config& c) {
              c.model.moe.n_experts = 4;
              c.topology.groups[1].expert_parallel = 4;
          }) ==
          "topology.groups[1].expert_parallel: 4 shards for the 2 experts that 'east' holds of "
          "4 (1 or 2 would)");
    CHECK(problem([](Config& c) {
              c.federation.placement = PlacementKind::rotate;
              c.federation.replication = 3;
          }) == "federation.replication: 3 does not divide the 2 groups (1 or 2 would)");
}

TEST_CASE("lists of experts must give every group some and every expert a group") {
    using Lists = std::map<std::string, std::vector<int>>;
    const auto with = [](const Lists& lists) {
        return problem([&](Config& c) {
            c.federation.placement = PlacementKind::explicit_lists;
            c.federation.replication = 1;
            c.model.moe.n_experts = 5;  // needs no equal blocks
            c.topology.experts = lists;
        });
    };
    CHECK(with({{"west", {0, 1, 2}}, {"east", {2, 3, 4}}}) == "problems: 0");
    CHECK(with({}) ==
          "federation.placement: explicit needs topology.experts, the experts of each group by its "
          "name");
    CHECK(with({{"west", {0, 1, 2, 3, 4}}}) ==
          "topology.experts: 'east' is not listed; every group holds at least one expert");
    CHECK(with({{"west", {0, 1, 2}}, {"east", {4}}}) ==
          "topology.experts: no group holds 3 of the 5 experts");
    CHECK(with({{"west", {0, 1, 2}}, {"east", {2, 3, 4, 5}}}) ==
          "topology.experts.east: 5 is no expert; the 5 of a layer are 0 to 4");
    CHECK(with({{"west", {0, 1, 2}}, {"east", {3, 4}}, {"north", {0}}}) ==
          "topology.experts.north: no such group; topology.groups has west, east");
    CHECK(with({{"west", {0}}, {"east", {1, 2, 3, 4}}}) ==
          "topology.groups[0].expert_parallel: 2 shards for the 1 experts that 'west' holds of 5 "
          "(1 would)");
}

TEST_CASE("rerouting needs top_k experts in every group") {
    CHECK(problem([](Config& c) {
              c.model.moe.top_k = 9;
              c.federation.absent = AbsentPolicy::reroute;
          }) ==
          "federation.absent: reroute needs top_k 9 experts in every group, and 'west' holds 8 of "
          "16; lower model.moe.top_k or give the group more with federation.replication");
    for (AbsentPolicy absent : {AbsentPolicy::skip, AbsentPolicy::renormalize}) {
        Config config = good();
        config.model.moe.top_k = 9;
        config.federation.absent = absent;
        CHECK(validate(config).empty());
    }
    Config config = good();
    config.model.moe.top_k = 8;
    config.federation.absent = AbsentPolicy::reroute;
    CHECK(validate(config).empty());
    config.federation.placement = PlacementKind::explicit_lists;
    config.topology.experts = {{"west", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}},
                               {"east", {10, 11, 12, 13, 14, 15}}};
    const std::vector<Problem> problems = validate(config);
    REQUIRE(problems.size() == 1);
    CHECK(problems[0].message.find("'east' holds 6 of 16") != std::string::npos);
}
