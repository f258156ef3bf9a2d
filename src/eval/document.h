// Which group a document goes to: chosen from its first tokens, before those that count.
#pragma once

#include <span>
#include <vector>

#include "topology/placement.h"

namespace fomoe {

enum class DocumentChoice { loss, router };

// The group with the smallest sum; `losses` are those of each group's own model on the tokens of
// the prefix. Ties: the first group.
int choose_by_loss(const std::vector<std::span<const float>>& losses);

// The group with the largest mass. Ties: the first group.
int choose_by_mass(std::span<const double> mass);

// Adds to mass (groups) the softmax mass, over all experts, of one layer's router on each group's
// residents, summed over the rows of the prefix. logits: (N, E).
void add_router_mass(std::span<const float> logits, const Placement& placement, int layer,
                     Range prefix, std::span<double> mass);

}  // namespace fomoe
