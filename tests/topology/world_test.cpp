// Ranks, groups, shards and the colors of the communicators.
#include "topology/world.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "base/error.h"
#include "base/random.h"

using namespace fomoe;

namespace {

TopologyConfig topology(const std::vector<std::pair<int, int>>& groups) {
    TopologyConfig config;
    config.groups.clear();
    for (auto [ranks, expert_parallel] : groups) {
        GroupConfig group;
        group.name = concat("g", config.groups.size());
        group.ranks = ranks;
        group.expert_parallel = expert_parallel;
        config.groups.push_back(group);
    }
    return config;
}

}  // namespace

TEST_CASE("a group of four with two shards beside a group of one") {
    const World world(topology({{1, 1}, {4, 2}}), 3, 5);
    CHECK(world.group == 1);
    CHECK(world.local_rank == 2);
    CHECK(world.shard() == 0);
    CHECK(world.own().name == "g1");
    CHECK(world.holders(1, -1, 0) == std::vector<int>{1, 2, 3, 4});
    CHECK(world.holders(1, 0, 5) == std::vector<int>{1, 3});  // slots 0-2
    CHECK(world.holders(1, 3, 5) == std::vector<int>{2, 4});  // slots 3-4
    CHECK(world.holders(0, 4, 5) == std::vector<int>{0});
}

TEST_CASE("a job of another size is a usage error") {
    try {
        World(topology({{2, 1}, {2, 2}}), 0, 3);
        FAIL("accepted");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::usage);
        CHECK_THAT(error.what(), Catch::Contains("4 ranks") && Catch::Contains("3"));
    }
    CHECK_THROWS_AS(World(topology({{4, 3}}), 0, 4), Error);
}

TEST_CASE("random federations: groups, colors and holders fit together") {
    for (uint64_t trial = 0; trial < 100; ++trial) {
        std::vector<std::pair<int, int>> groups;
        for (uint64_t g = 0; g < 1 + random_bits(trial, 0) % 4; ++g) {
            const int expert_parallel = 1 + static_cast<int>(random_bits(trial, 2 * g + 1) % 3);
            const int replicas = 1 + static_cast<int>(random_bits(trial, 2 * g + 2) % 3);
            groups.push_back({expert_parallel * replicas, expert_parallel});
        }
        const TopologyConfig config = topology(groups);
        const int n = config.n_ranks();
        const int residents = 7;

        std::vector<World> worlds;
        for (int rank = 0; rank < n; ++rank) worlds.emplace_back(config, rank, n);
        std::map<int, std::vector<int>> by_group, by_expert_parallel, by_replica;
        for (const World& world : worlds) {
            REQUIRE(world.own().first_rank + world.local_rank == world.rank);
            REQUIRE(world.n_ranks() == n);
            by_group[world.group_color()].push_back(world.rank);
            by_expert_parallel[world.expert_parallel_color()].push_back(world.rank);
            by_replica[world.expert_replica_color()].push_back(world.rank);
        }
        REQUIRE(by_group.size() == groups.size());

        for (const World& world : worlds) {
            const auto [ranks, expert_parallel] = groups[world.group];
            REQUIRE(by_group[world.group_color()] == world.holders(world.group, -1, 0));
            // An EP communicator has every shard once, in order.
            const std::vector<int>& peers = by_expert_parallel[world.expert_parallel_color()];
            REQUIRE(static_cast<int>(peers.size()) == expert_parallel);
            for (int shard = 0; shard < expert_parallel; ++shard) {
                REQUIRE(worlds[peers[shard]].shard() == shard);
                REQUIRE(worlds[peers[shard]].group == world.group);
            }
            // The replicas are exactly the holders of each slot of this rank's shard.
            const std::vector<int>& replicas = by_replica[world.expert_replica_color()];
            REQUIRE(static_cast<int>(replicas.size()) == ranks / expert_parallel);
            const Range slots = World::shard_slots(world.own(), residents, world.shard());
            for (int slot = 0; slot < residents; ++slot) {
                const bool held = slots.begin <= slot && slot < slots.end;
                REQUIRE(held == (world.holders(world.group, slot, residents) == replicas));
            }
        }
    }
}
