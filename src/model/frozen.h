// Frozen copies: bf16 values of the experts that a group does not hold, without master, moments or
// gradient. Which of them a rank keeps, and where they lie in its arena of copies.
#pragma once

#include <vector>

#include "model/parameters.h"

namespace fomoe {

// The experts that the group does not hold in this layer, ascending.
std::vector<int> absent_experts(const Placement& placement, int layer, int group);

// What one rank keeps: per layer its shard of the group's absent experts, cut as residents are. The
// matrices of an expert lie one behind the other, as in the arena of the weights.
struct FrozenLayout {
    std::vector<Parameter> parameters;  // in global order, offsets in the arena of copies
    int64_t size = 0;                   // elements; the parameters tile [0, size)
};
FrozenLayout frozen_layout(const std::vector<Parameter>& all, const Placement& placement,
                           const World& world);

// Writes bf16 of the start value of elements [begin, begin + n) of a parameter.
void initial_copies(const Parameter& parameter, uint64_t seed, int64_t begin, int64_t n, bf16* out);

}  // namespace fomoe
