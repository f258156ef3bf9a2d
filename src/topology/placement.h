// Which federation group holds which experts. A pure function of the config: every rank computes
// the same. Layers count all layers of the model; a dense layer has no experts.
#pragma once

#include <vector>

#include "config/config.h"

namespace fomoe {

// blocks: experts are cut into G / replication blocks of equal size, group g holds block g mod
// n_blocks. rotate: block (g + layer) mod n_blocks. explicit: what topology.experts lists.
class Placement {
public:
    // Throws Error(usage) that names the key when replication does not divide the groups, the
    // blocks do not divide the experts, or the lists leave a group or an expert out
    // (config/validate reports the same with line and column).
    Placement(const FederationConfig& federation, const TopologyConfig& topology, int n_experts);
    // The one that holds in a step of a run, which may have phases; step 0 counts as the first.
    static Placement in_step(const Config& config, int64_t step);
    // One group that holds every expert: plain training and evaluation.
    static Placement all_resident(int n_experts) { return Placement({}, {}, n_experts); }

    int n_experts() const { return n_experts_; }
    int n_groups() const { return n_groups_; }
    // The groups that hold the expert, ascending; never empty.
    std::vector<int> owners(int layer, int expert) const;
    // The experts that the group holds in this layer, ascending.
    std::vector<int> residents(int layer, int group) const { return block(layer, group); }
    // Index of the expert among the group's residents, or -1.
    int slot(int layer, int group, int expert) const;

private:
    const std::vector<int>& block(int layer, int group) const;
    void cut_blocks(int replication);
    void take_lists(const TopologyConfig& topology);

    int n_experts_, n_groups_;
    bool rotates_;
    std::vector<std::vector<int>> blocks_;  // experts, ascending; explicit: one block a group
};

// Items [begin, end) of part `part` when n items are cut into `parts` runs of nearly equal size.
struct Range {
    int64_t begin = 0, end = 0;
    int64_t size() const { return end - begin; }
    bool operator==(const Range&) const = default;
};
Range cut(int64_t n, int64_t parts, int64_t part);

}  // namespace fomoe
