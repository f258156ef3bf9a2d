// Which rank of the job sits in which group, and which shard of the group's experts it holds.
#pragma once

#include <vector>

#include "config/config.h"
#include "topology/placement.h"

namespace fomoe {

// Groups take consecutive ranks in the order of the config. Inside a group of P ranks with expert
// parallelism EP, the local ranks [i EP, (i+1) EP) form an EP communicator, and shard s of the
// residents is held by the local ranks with local_rank mod EP = s.
struct World {
    struct Group {
        std::string name;
        int first_rank, ranks, expert_parallel;
    };
    std::vector<Group> groups;
    int rank = 0, group = 0, local_rank = 0;

    // Throws Error(usage) when n_ranks is not the sum of the groups' ranks.
    World(const TopologyConfig& topology, int rank, int n_ranks);

    const Group& own() const { return groups[group]; }
    int shard() const { return local_rank % own().expert_parallel; }
    int n_groups() const { return static_cast<int>(groups.size()); }
    int n_ranks() const { return groups.back().first_rank + groups.back().ranks; }

    // Colors for Communicator::split of the job's communicator.
    int group_color() const { return group; }  // P ranks: shared gradients
    int expert_parallel_color() const;         // EP ranks: tokens travel here
    int expert_replica_color() const;          // P / EP ranks: expert gradients

    // Slots [begin, end) of `residents` experts that shard `shard` of the group holds.
    static Range shard_slots(const Group& group, int residents, int shard) {
        return cut(residents, group.expert_parallel, shard);
    }
    // The ranks of the job, ascending, that hold a parameter in `group`: all of the group, or those
    // of one shard (slot >= 0 of `residents` experts).
    std::vector<int> holders(int group, int slot, int residents) const;
};

}  // namespace fomoe
