// Which frozen copies the ranks of a group keep, and where.
#include "model/frozen.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "support/random_federation.h"
#include "support/tiny.h"

using namespace fomoe;

TEST_CASE("the ranks of a group keep a copy of each expert that it does not hold") {
    for (PlacementKind kind : kAllPlacements)
        for (uint64_t trial = 0; trial < 40; ++trial) {
            const RandomFederation made = random_federation(trial, kind, 5);
            Config config = trial % 2 ? tiny_config() : tiny_softmax_config();
            config.model.moe.n_experts = made.n_experts;
            const Placement placement = made.placement();
            const std::vector<Parameter> all = all_parameters(config.model, placement);
            INFO("trial " << trial << ", placement " << static_cast<int>(kind));

            std::map<std::pair<int, std::string>, std::set<int>> kept;  // (group, name) -> shards
            std::map<std::pair<int, std::string>, int> copies;
            std::map<std::tuple<int, int, int>, std::set<int>> shards;  // (group, layer, shard)
            const int n_ranks = made.topology.n_ranks();
            for (int rank = 0; rank < n_ranks; ++rank) {
                const World world(made.topology, rank, n_ranks);
                const FrozenLayout layout = frozen_layout(all, placement, world);
                int64_t end = 0;
                size_t in_table = 0;
                for (const Parameter& p : layout.parameters) {
                    while (in_table < all.size() && all[in_table].name != p.name) ++in_table;
                    REQUIRE(in_table < all.size());
                    REQUIRE(p.offset == end);
                    end += p.count();
                    kept[{world.group, p.name}].insert(world.shard());
                    ++copies[{world.group, p.name}];
                    shards[{world.group, p.layer, world.shard()}].insert(p.expert);
                }
                CHECK(layout.size == end);
            }
            for (int g = 0; g < std::ssize(made.topology.groups); ++g) {
                const GroupConfig& group = made.topology.groups[g];
                const int replicas = group.ranks / group.expert_parallel;
                for (const Parameter& p : all) {
                    const bool absent =
                        p.cls == ParamClass::expert && placement.slot(p.layer, g, p.expert) < 0;
                    const auto found = kept.find({g, p.name});
                    REQUIRE((found != kept.end()) == absent);
                    if (!absent) continue;
                    CHECK(found->second.size() == 1);
                    CHECK(copies[{g, p.name}] == replicas);
                }
                for (int l = config.model.moe.first_dense_layers; l < config.model.n_layers; ++l) {
                    const std::vector<int> absent = absent_experts(placement, l, g);
                    CHECK(absent.size() + placement.residents(l, g).size() ==
                          static_cast<size_t>(made.n_experts));
                    for (int shard = 0; shard < group.expert_parallel; ++shard) {
                        const Range own = cut(std::ssize(absent), group.expert_parallel, shard);
                        const std::set<int> expected(absent.begin() + own.begin,
                                                     absent.begin() + own.end);
                        CHECK((shards[{g, l, shard}] == expected));
                    }
                }
            }
        }
}

TEST_CASE("the matrices of a copied expert lie one behind the other") {
    Config config = tiny_config();
    config.topology = tiny_topology({{2, 2}, {1, 1}});
    const Placement placement = placement_of(config);
    const FrozenLayout layout = frozen_layout(all_parameters(config.model, placement), placement,
                                              World(config.topology, 1, 3));
    // Group 0 holds experts 0 to 3; its second shard copies 6 and 7 of both layers.
    std::vector<std::string> names;
    for (const char* expert :
         {"0.mlp.experts.6", "0.mlp.experts.7", "1.mlp.experts.6", "1.mlp.experts.7"})
        for (const char* matrix : {"gate_proj", "up_proj", "down_proj"})
            names.push_back(concat("model.layers.", expert, ".", matrix, ".weight"));
    std::vector<std::string> found;
    for (const Parameter& p : layout.parameters) found.push_back(p.name);
    CHECK(found == names);
    CHECK(layout.size == 4 * 384);
}

TEST_CASE("nothing is copied where nothing is absent") {
    Config config = tiny_config();
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    config.federation.replication = 2;
    const Placement placement = placement_of(config);
    const FrozenLayout layout = frozen_layout(all_parameters(config.model, placement), placement,
                                              World(config.topology, 0, 2));
    CHECK(layout.parameters.empty());
    CHECK(layout.size == 0);
}
