// Rounds of federations whose experts are placed in any way: overlapping lists, blocks that rotate.
#include <catch2/catch.hpp>
#include <set>

#include "federation/tiny_federation.h"
#include "support/random_federation.h"

using namespace fomoe;

namespace {

TinyConfig config_of(const RandomFederation& random, OuterKind outer) {
    TinyConfig config = tiny_config({}, random.federation.replication, outer);
    config.topology = random.topology;
    config.federation.placement = random.federation.placement;
    config.model.moe.n_experts = random.n_experts;
    config.model.moe.top_k = 1;
    return config;
}

// Groups whose lists overlap in parts, with shards of different sizes.
TinyConfig overlapping() {
    TinyConfig config = tiny_config({{2, 2}, {4, 2}, {1, 1}}, 1);
    config.federation.placement = PlacementKind::explicit_lists;
    config.model.moe.n_experts = 6;
    config.topology.experts = {{"g0", {0, 1, 2, 5}}, {"g1", {1, 2, 3}}, {"g2", {2, 3, 4}}};
    return config;
}

std::vector<OwnedSpan> spans_of(const TinyConfig& config, int rank) {
    const World world(config.topology, rank, config.topology.n_ranks());
    const std::vector<Parameter> all = config.parameters();
    return owned_spans(all, arena_layout(all, config.placement(), world), config.placement(),
                       world);
}

void check_rounds(const TinyConfig& config, Communicator& job) {
    TinyReference reference(config);
    TinyRank rank(config, job);
    Federation federation = rank.federation(rank.link);
    federation.start(rank.weights());
    for (int64_t round = 1; round <= 3; ++round) {
        rank.train(round);
        reference.train(round);
        const RoundResult result = federation.round(rank.weights());
        reference.round(std::vector<bool>(rank.world.n_groups(), true));
        reference.check(rank);
        FOMOE_CHECK(result.committed);
        FOMOE_CHECK(result.counted == result.predicted, "counted ", result.counted.total_sent(),
                    ", predicted ", result.predicted.total_sent());
        for (ParamClass cls : {ParamClass::shared, ParamClass::router, ParamClass::expert})
            FOMOE_CHECK(result.counted.sent_of(traffic_of(cls)) == expected_bytes(config, cls));
    }
}

}  // namespace

TEST_CASE("overlapping lists make spans of their own, by owners and by holders") {
    const std::vector<OwnedSpan> spans = spans_of(overlapping(), 2);
    struct Expected {
        std::vector<int> owners;
        std::vector<std::vector<int>> holders;
        int experts, lanes, holder;  // of one layer; rank 2 among the holders of its group
    };
    // In the order of their owners. In g1, shard 0 (ranks 2 and 4) has experts 1 and 2.
    const std::vector<Expected> expected{
        {{0}, {{0}}, 1, 1, -1},                    // 0
        {{0}, {{1}}, 1, 1, -1},                    // 5
        {{0, 1}, {{0}, {2, 4}}, 1, 1, 0},          // 1
        {{0, 1, 2}, {{1}, {2, 4}, {6}}, 1, 1, 0},  // 2
        {{1, 2}, {{3, 5}, {6}}, 1, 1, -1},         // 3
        {{2}, {{6}}, 1, 1, -1},                    // 4
    };
    REQUIRE(spans.size() == 2 + expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
        INFO("span " << i);
        const OwnedSpan& span = spans[2 + i];
        CHECK(span.cls == ParamClass::expert);
        CHECK(span.owners == expected[i].owners);
        CHECK(span.holders == expected[i].holders);
        CHECK(span.parameters.size() == 3u * 3 * expected[i].experts);  // layers and matrices
        CHECK(span.lanes == expected[i].lanes);
        CHECK(span.holder == expected[i].holder);
    }
}

TEST_CASE("rotated blocks have other owners in other layers") {
    TinyConfig config = tiny_config({{1, 1}, {2, 2}}, 1);
    config.federation.placement = PlacementKind::rotate;
    int begins = 0;
    for (const OwnedSpan& span : spans_of(config, 0))
        for (const std::string& name : span.parameters) {
            if (span.cls != ParamClass::expert) continue;
            const bool even_layer = name.find("layers.1.") == name.npos;
            const bool first_block = std::stoi(name.substr(name.find("experts.") + 8)) < 6;
            CHECK(span.owners == std::vector<int>{even_layer == first_block ? 0 : 1});
            ++begins;
        }
    CHECK(begins == 3 * 12 * 3);
}

TEST_CASE("arenas and spans tile every parameter in random federations of any placement") {
    for (PlacementKind kind : kAllPlacements)
        for (uint64_t trial = 0; trial < 40; ++trial) {
            const TinyConfig config =
                config_of(random_federation(trial, kind, 6), OuterKind::nesterov);
            const Placement placement = config.placement();
            const int n_ranks = config.topology.n_ranks();
            const std::vector<OwnedSpan> table = spans_of(config, 0);
            std::set<std::string> names;
            for (const OwnedSpan& span : table)
                for (const std::string& name : span.parameters) REQUIRE(names.insert(name).second);
            REQUIRE(names.size() == config.parameters().size());

            for (int rank = 0; rank < n_ranks; ++rank) {
                const World world(config.topology, rank, n_ranks);
                const ArenaLayout layout = arena_layout(config.parameters(), placement, world);
                // Each element of the arena that a parameter uses lies in one segment.
                std::vector<int> covered(layout.size());
                for (const Parameter& p : layout.parameters) {
                    if (p.cls == ParamClass::expert)
                        REQUIRE(placement.slot(p.layer, world.group, p.expert) >= 0);
                    for (int64_t i = 0; i < p.count(); ++i) ++covered[p.offset + i];
                }
                for (const OwnedSpan& span : spans_of(config, rank)) {
                    int64_t end = 0;
                    for (const SpanSegment& segment : span.segments) {
                        REQUIRE(segment.begin == end);
                        end += segment.count;
                        for (int64_t i = 0; i < segment.count; ++i) --covered[segment.arena + i];
                    }
                    REQUIRE(end == (span.owner < 0 ? 0 : span.size));
                }
                REQUIRE(std::ranges::count(covered, 0) == layout.size());
            }
        }
}

TEST_CASE("rounds equal the reference for any placement") {
    run_ranks(7, [&](Communicator& job) { check_rounds(overlapping(), job); });
    for (PlacementKind kind : {PlacementKind::rotate, PlacementKind::explicit_lists})
        for (uint64_t trial = 0; trial < 6; ++trial) {
            CAPTURE(static_cast<int>(kind), trial);
            const TinyConfig config =
                config_of(random_federation(trial, kind, 5),
                          trial % 4 == 3 ? OuterKind::average : OuterKind::nesterov);
            run_ranks(config.topology.n_ranks(),
                      [&](Communicator& job) { check_rounds(config, job); });
        }
}
