// Placement by blocks.
#include "topology/placement.h"

#include "base/error.h"

namespace fomoe {

Placement::Placement(const FederationConfig& federation, int n_experts, int n_groups)
    : n_experts_(n_experts), n_groups_(n_groups), replication_(federation.replication) {
    FOMOE_CHECK(n_experts >= 0 && n_groups >= 1);
    if (replication_ < 1 || replication_ > n_groups || n_groups % replication_ != 0)
        throw Error(Exit::usage, concat("federation.replication: ", replication_,
                                        " does not divide the ", n_groups, " groups"));
    const int n_blocks = n_groups / replication_;
    if (n_experts % n_blocks != 0)
        throw Error(Exit::usage, concat("federation.replication: ", n_experts,
                                        " experts (model.moe.n_experts) cannot be cut into ",
                                        n_blocks, " equal blocks (", n_groups,
                                        " groups / replication ", replication_, ")"));
}

std::vector<int> Placement::owners(int, int expert) const {
    FOMOE_CHECK(0 <= expert && expert < n_experts_, "expert ", expert, " of ", n_experts_);
    const int n_blocks = n_groups_ / replication_;
    std::vector<int> groups;
    for (int group = expert / (n_experts_ / n_blocks); group < n_groups_; group += n_blocks)
        groups.push_back(group);
    return groups;
}

std::vector<int> Placement::residents(int, int group) const {
    FOMOE_CHECK(0 <= group && group < n_groups_, "group ", group, " of ", n_groups_);
    const int n_blocks = n_groups_ / replication_;
    const int size = n_experts_ / n_blocks;
    std::vector<int> experts(size);
    for (int slot = 0; slot < size; ++slot) experts[slot] = group % n_blocks * size + slot;
    return experts;
}

int Placement::slot(int, int group, int expert) const {
    FOMOE_CHECK(0 <= group && group < n_groups_ && 0 <= expert && expert < n_experts_);
    const int n_blocks = n_groups_ / replication_;
    const int size = n_experts_ / n_blocks;
    return expert / size == group % n_blocks ? expert % size : -1;
}

Range cut(int64_t n, int64_t parts, int64_t part) {
    FOMOE_CHECK(parts >= 1 && 0 <= part && part < parts, "part ", part, " of ", parts);
    const int64_t size = n / parts, longer = n % parts;
    const int64_t begin = part * size + (part < longer ? part : longer);
    return {begin, begin + size + (part < longer ? 1 : 0)};
}

}  // namespace fomoe
