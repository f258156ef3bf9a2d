// From the config's groups to ranks and colors.
#include "topology/world.h"

#include "base/error.h"

namespace fomoe {

World::World(const TopologyConfig& topology, int rank, int n_ranks) : rank(rank) {
    if (n_ranks != topology.n_ranks())
        throw Error(Exit::usage, concat("topology.groups: the groups have ", topology.n_ranks(),
                                        " ranks together, but the job has ", n_ranks,
                                        "; start it with as many ranks as the groups have"));
    FOMOE_CHECK(0 <= rank && rank < n_ranks, "rank ", rank, " of ", n_ranks);
    int first_rank = 0;
    for (const GroupConfig& config : topology.groups) {
        if (config.ranks < 1 || config.expert_parallel < 1 ||
            config.ranks % config.expert_parallel != 0)
            throw Error(Exit::usage, concat("topology.groups: expert_parallel ",
                                            config.expert_parallel, " does not divide the ",
                                            config.ranks, " ranks of '", config.name, "'"));
        if (first_rank <= rank && rank < first_rank + config.ranks) {
            group = n_groups();
            local_rank = rank - first_rank;
        }
        groups.push_back({.name = config.name,
                          .first_rank = first_rank,
                          .ranks = config.ranks,
                          .expert_parallel = config.expert_parallel});
        first_rank += config.ranks;
    }
}

int World::expert_parallel_color() const { return rank - shard(); }

int World::expert_replica_color() const { return own().first_rank + shard(); }

std::vector<int> World::holders(int group, int slot, int residents) const {
    const Group& of = groups.at(group);
    std::vector<int> ranks;
    for (int local = 0; local < of.ranks; ++local) {
        const Range slots = shard_slots(of, residents, local % of.expert_parallel);
        if (slot < 0 || (slots.begin <= slot && slot < slots.end))
            ranks.push_back(of.first_rank + local);
    }
    return ranks;
}

}  // namespace fomoe
