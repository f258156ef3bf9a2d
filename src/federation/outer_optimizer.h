// The outer optimizer: from the owners' local values to the next anchor.
#pragma once

#include <span>

#include "config/config.h"
#include "model/parameters.h"

namespace fomoe {

// How one span is stepped.
struct OuterRule {
    OuterKind kind = OuterKind::average;
    float lr = 1;
    float momentum = 0;
    bool keeps_anchor = true;  // false: one owner that averages alone, a copy of what it has

    bool keeps_momentum() const { return kind == OuterKind::nesterov; }
};

// The rule of a class, as configured. A span with one owner, and a class with a shorter period p
// than H = local_steps, averages unless the config names the outer optimizer of its class. With p
// other than H, momentum and rate are converted (outer_at of config/phases.h).
OuterRule outer_rule(const FederationConfig& config, ParamClass cls, int n_owners);

// average[i] = sum over the contributions, in their order, of weight * contribution[i].
void weighted_average(std::span<const float* const> contributions, std::span<const float> weights,
                      int64_t n, float* average);

// One outer step on n elements (Nesterov as in DiLoCo, arXiv 2311.08105):
//   average:   next = average
//   nesterov:  p = anchor - average; m = mu m + p; next = anchor - lr (mu m + p)
// The anchor and momentum stay as they are; the new ones go to next_*. `average` does not read the
// anchor, and its momentum and next_momentum are null.
struct OuterUpdate {
    const float *anchor, *average, *momentum;
    float *next_anchor, *next_momentum;
};
void outer_update(const OuterRule& rule, const OuterUpdate& update, int64_t n);

bool all_finite(const float* x, int64_t n);

}  // namespace fomoe
