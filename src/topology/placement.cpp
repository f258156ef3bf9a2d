// Placement by blocks or by lists.
#include "topology/placement.h"

#include <algorithm>

#include "base/error.h"
#include "config/phases.h"

namespace fomoe {

Placement::Placement(const FederationConfig& federation, const TopologyConfig& topology,
                     int n_experts)
    : n_experts_(n_experts),
      n_groups_(static_cast<int>(topology.groups.size())),
      rotates_(federation.placement == PlacementKind::rotate) {
    FOMOE_CHECK(n_experts >= 0 && n_groups_ >= 1);
    if (federation.placement == PlacementKind::explicit_lists)
        take_lists(topology);
    else
        cut_blocks(federation.replication);
}

Placement Placement::in_step(const Config& config, int64_t step) {
    return Placement(phase_of(config, step).federation, config.topology,
                     config.model.moe.n_experts);
}

void Placement::cut_blocks(int replication) {
    if (replication < 1 || replication > n_groups_ || n_groups_ % replication != 0)
        throw Error(Exit::usage, concat("federation.replication: ", replication,
                                        " does not divide the ", n_groups_, " groups"));
    const int n_blocks = n_groups_ / replication;
    if (n_experts_ % n_blocks != 0)
        throw Error(Exit::usage, concat("federation.replication: ", n_experts_,
                                        " experts (model.moe.n_experts) cannot be cut into ",
                                        n_blocks, " equal blocks (", n_groups_,
                                        " groups / replication ", replication, ")"));
    blocks_.resize(n_blocks);
    for (int expert = 0; expert < n_experts_; ++expert)
        blocks_[expert / (n_experts_ / n_blocks)].push_back(expert);
}

void Placement::take_lists(const TopologyConfig& topology) {
    std::vector<bool> owned(n_experts_);
    for (const GroupConfig& group : topology.groups) {
        const auto found = topology.experts.find(group.name);
        if (found == topology.experts.end() || found->second.empty())
            throw Error(Exit::usage,
                        concat("topology.experts: no experts for the group '", group.name, "'"));
        std::vector<int>& block = blocks_.emplace_back(found->second);
        std::ranges::sort(block);
        if (block.front() < 0 || block.back() >= n_experts_ ||
            std::ranges::adjacent_find(block) != block.end())
            throw Error(Exit::usage,
                        concat("topology.experts.", group.name, ": not different experts of the ",
                               n_experts_, " (model.moe.n_experts)"));
        for (int expert : block) owned[expert] = true;
    }
    const auto ownerless = std::ranges::find(owned, false);
    if (ownerless != owned.end())
        throw Error(Exit::usage,
                    concat("topology.experts: no group holds expert ", ownerless - owned.begin()));
}

std::vector<int> Placement::owners(int layer, int expert) const {
    std::vector<int> groups;
    for (int group = 0; group < n_groups_; ++group)
        if (slot(layer, group, expert) >= 0) groups.push_back(group);
    return groups;
}

const std::vector<int>& Placement::block(int layer, int group) const {
    FOMOE_CHECK(0 <= group && group < n_groups_, "group ", group, " of ", n_groups_);
    return blocks_[(group + (rotates_ ? layer : 0)) % blocks_.size()];
}

int Placement::slot(int layer, int group, int expert) const {
    FOMOE_CHECK(0 <= expert && expert < n_experts_, "expert ", expert, " of ", n_experts_);
    const std::vector<int>& held = block(layer, group);
    const auto found = std::ranges::lower_bound(held, expert);
    return found != held.end() && *found == expert ? static_cast<int>(found - held.begin()) : -1;
}

Range cut(int64_t n, int64_t parts, int64_t part) {
    FOMOE_CHECK(parts >= 1 && 0 <= part && part < parts, "part ", part, " of ", parts);
    const int64_t size = n / parts, longer = n % parts;
    const int64_t begin = part * size + (part < longer ? part : longer);
    return {begin, begin + size + (part < longer ? 1 : 0)};
}

}  // namespace fomoe
