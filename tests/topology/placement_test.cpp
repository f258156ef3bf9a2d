// Placement: known cases, refusals, and properties of random federations.
#include "topology/placement.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "base/error.h"
#include "support/random_federation.h"

using namespace fomoe;

namespace {

TopologyConfig groups(int n) {
    TopologyConfig topology;
    topology.groups.clear();
    for (int g = 0; g < n; ++g) topology.groups.push_back({.name = concat("g", g), .data = {}});
    return topology;
}

Placement placed(PlacementKind kind, int n_experts, int n_groups, int replication) {
    FederationConfig federation;
    federation.placement = kind;
    federation.replication = replication;
    return Placement(federation, groups(n_groups), n_experts);
}

Placement listed(int n_experts, const std::vector<std::vector<int>>& lists) {
    FederationConfig federation;
    federation.placement = PlacementKind::explicit_lists;
    TopologyConfig topology = groups(static_cast<int>(lists.size()));
    for (size_t g = 0; g < lists.size(); ++g) topology.experts[topology.groups[g].name] = lists[g];
    return Placement(federation, topology, n_experts);
}

using Experts = std::vector<int>;

}  // namespace

TEST_CASE("four groups, replication 2, eight experts") {
    const Placement placement = placed(PlacementKind::blocks, 8, 4, 2);
    CHECK(placement.owners(0, 0) == std::vector<int>{0, 2});
    CHECK(placement.owners(5, 7) == std::vector<int>{1, 3});
    CHECK(placement.residents(0, 3) == std::vector<int>{4, 5, 6, 7});
    CHECK(placement.slot(0, 2, 3) == 3);
    CHECK(placement.slot(0, 1, 3) == -1);
}

TEST_CASE("one group holds every expert") {
    const Placement placement = Placement::all_resident(5);
    for (int expert = 0; expert < 5; ++expert) {
        CHECK(placement.owners(0, expert) == std::vector<int>{0});
        CHECK(placement.slot(0, 0, expert) == expert);
    }
}

TEST_CASE("rotated blocks move on by one group in every layer") {
    const Placement placement = placed(PlacementKind::rotate, 6, 3, 1);
    CHECK(placement.residents(0, 0) == Experts{0, 1});
    CHECK(placement.residents(1, 0) == Experts{2, 3});
    CHECK(placement.residents(2, 0) == Experts{4, 5});
    CHECK(placement.residents(3, 0) == Experts{0, 1});
    CHECK(placement.residents(1, 2) == Experts{0, 1});
    CHECK(placement.owners(0, 5) == std::vector<int>{2});
    CHECK(placement.owners(1, 5) == std::vector<int>{1});
    CHECK(placement.slot(1, 1, 5) == 1);
    CHECK(placement.slot(0, 1, 5) == -1);

    const Placement twice = placed(PlacementKind::rotate, 8, 4, 2);
    CHECK(twice.owners(0, 0) == std::vector<int>{0, 2});
    CHECK(twice.owners(1, 0) == std::vector<int>{1, 3});
    CHECK(twice.residents(1, 3) == Experts{0, 1, 2, 3});
}

TEST_CASE("lists may overlap and have any length, and are the same in all layers") {
    const Placement placement = listed(6, {{0, 1, 2, 5}, {2}, {2, 3, 4}});
    for (int layer : {0, 3}) {
        CHECK(placement.owners(layer, 2) == std::vector<int>{0, 1, 2});
        CHECK(placement.owners(layer, 5) == std::vector<int>{0});
        CHECK(placement.residents(layer, 2) == Experts{2, 3, 4});
        CHECK(placement.slot(layer, 0, 5) == 3);
        CHECK(placement.slot(layer, 1, 2) == 0);
        CHECK(placement.slot(layer, 2, 5) == -1);
    }
}

TEST_CASE("what does not divide names the key") {
    for (PlacementKind kind : {PlacementKind::blocks, PlacementKind::rotate})
        for (auto [experts, groups, replication] :
             {std::tuple{8, 4, 3}, {8, 4, 0}, {8, 2, 4}, {7, 2, 1}}) {
            try {
                placed(kind, experts, groups, replication);
                FAIL("accepted");
            } catch (const Error& error) {
                CHECK(error.exit == Exit::usage);
                CHECK_THAT(error.what(), Catch::Contains("federation.replication"));
            }
        }
}

TEST_CASE("lists that leave out a group or an expert name the key") {
    const std::vector<std::pair<std::vector<std::vector<int>>, std::string>> wrong{
        {{{0, 1, 2}, {}}, "no experts for the group 'g1'"},
        {{{0}, {2, 3}}, "no group holds expert 1"},
        {{{0, 1, 2}, {3, 4}}, "topology.experts.g1: not different experts of the 4"},
        {{{0, 1, 1, 2}, {3}}, "topology.experts.g0: not different"},
        {{{0, 1, 2, 3}, {-1}}, "topology.experts.g1: not different"},
    };
    for (const auto& [lists, said] : wrong) {
        INFO(said);
        try {
            listed(4, lists);
            FAIL("accepted");
        } catch (const Error& error) {
            CHECK(error.exit == Exit::usage);
            CHECK_THAT(error.what(), Catch::Contains("topology.experts") && Catch::Contains(said));
        }
    }
}

TEST_CASE("every expert is owned, and owners, residents and slots agree") {
    for (PlacementKind kind : kAllPlacements)
        for (uint64_t trial = 0; trial < 200; ++trial) {
            const RandomFederation federation = random_federation(trial, kind, 6);
            const Placement placement = federation.placement();
            const int n_groups = static_cast<int>(federation.topology.groups.size());
            REQUIRE(placement.n_groups() == n_groups);
            for (int layer : {0, 1, 7}) {
                for (int expert = 0; expert < federation.n_experts; ++expert) {
                    const std::vector<int> owners = placement.owners(layer, expert);
                    REQUIRE(!owners.empty());
                    if (kind != PlacementKind::explicit_lists)
                        REQUIRE(std::ssize(owners) == federation.federation.replication);
                    REQUIRE(std::is_sorted(owners.begin(), owners.end()));
                    REQUIRE(std::set<int>(owners.begin(), owners.end()).size() == owners.size());
                    for (int group = 0; group < n_groups; ++group) {
                        const Experts residents = placement.residents(layer, group);
                        REQUIRE(std::is_sorted(residents.begin(), residents.end()));
                        REQUIRE(!residents.empty());
                        const bool owner = std::count(owners.begin(), owners.end(), group) > 0;
                        const auto found = std::find(residents.begin(), residents.end(), expert);
                        const int slot = placement.slot(layer, group, expert);
                        REQUIRE(owner == (found != residents.end()));
                        REQUIRE(slot == (owner ? found - residents.begin() : -1));
                    }
                }
            }
        }
}

TEST_CASE("cut tiles the items with parts that differ by one at most") {
    for (int64_t n : {0, 1, 7, 64, 1001})
        for (int64_t parts : {1, 2, 3, 8}) {
            int64_t end = 0;
            for (int64_t part = 0; part < parts; ++part) {
                const Range range = cut(n, parts, part);
                REQUIRE(range.begin == end);
                REQUIRE((range.size() == n / parts || range.size() == n / parts + 1));
                end = range.end;
            }
            REQUIRE(end == n);
        }
}
