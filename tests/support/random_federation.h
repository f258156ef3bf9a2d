// Random federations: groups of any size, any expert parallelism, any placement.
#pragma once

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "topology/placement.h"

namespace fomoe {

struct RandomFederation {
    TopologyConfig topology;
    FederationConfig federation;
    int n_experts = 0;

    Placement placement() const { return Placement(federation, topology, n_experts); }
};

// A pure function of its arguments: 1 to max_groups groups of 1 to 4 ranks.
inline RandomFederation random_federation(uint64_t trial, PlacementKind kind, int max_groups) {
    uint64_t draws = 0;
    const uint64_t key = combine_bits(trial, static_cast<uint64_t>(kind));
    // An integer of 1 to n.
    auto draw = [&](int n) { return 1 + static_cast<int>(random_bits(key, draws++) % n); };

    RandomFederation made;
    made.federation.placement = kind;
    const int n_groups = draw(max_groups);
    made.topology.groups.clear();
    for (int g = 0; g < n_groups; ++g)
        made.topology.groups.push_back({.name = concat("g", g), .data = {}});

    if (kind == PlacementKind::explicit_lists) {
        made.n_experts = 1 + draw(9);
        std::vector<bool> owned(made.n_experts);
        std::vector<std::vector<int>> lists(n_groups);
        for (std::vector<int>& list : lists) {
            list.resize(made.n_experts);
            std::iota(list.begin(), list.end(), 0);
            const int one = draw(made.n_experts) - 1;
            std::erase_if(list, [&](int e) { return e != one && draw(2) == 1; });
            for (int e : list) owned[e] = true;
        }
        for (int e = 0; e < made.n_experts; ++e) {
            if (owned[e]) continue;
            std::vector<int>& list = lists[draw(n_groups) - 1];
            list.insert(std::ranges::lower_bound(list, e), e);
        }
        for (int g = 0; g < n_groups; ++g)
            made.topology.experts[made.topology.groups[g].name] = lists[g];
    } else {
        int n_blocks = draw(n_groups);
        while (n_groups % n_blocks != 0) --n_blocks;
        made.federation.replication = n_groups / n_blocks;
        made.n_experts = n_blocks * draw(4);
    }

    const Placement placement = made.placement();
    for (int g = 0; g < n_groups; ++g) {
        GroupConfig& group = made.topology.groups[g];
        group.expert_parallel =
            std::min(draw(4), static_cast<int>(placement.residents(0, g).size()));
        group.ranks = group.expert_parallel * (group.expert_parallel <= 2 ? draw(2) : 1);
    }
    return made;
}

inline constexpr PlacementKind kAllPlacements[] = {PlacementKind::blocks, PlacementKind::rotate,
                                                   PlacementKind::explicit_lists};

}  // namespace fomoe
