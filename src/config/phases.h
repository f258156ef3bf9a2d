// The phases of a run: stretches of steps in which the federation follows one plain config. They
// come from federation.schedule and federation.replication_warmup. Pure.
#pragma once

#include <limits>
#include <vector>

#include "config/config.h"

namespace fomoe {

struct Phase {
    int64_t begin = 0;  // the step before its first one; its rounds count from here
    int64_t end = std::numeric_limits<int64_t>::max();  // its last step
    bool full_replicas = false;                         // every group holds every expert
    // Without schedule and warm-up. local_steps, outer optimizers and placement are the phase's.
    FederationConfig federation;
};

// In order and without gaps, from step 1 on. The config must be valid.
std::vector<Phase> phases_of(const Config& config);
// The phase that holds in a step.
Phase phase_of(const Config& config, int64_t step);

// The outer optimizer for rounds of `period` steps, from that for rounds of local_steps H: the
// momentum mu becomes mu^(period/H) and the rate lr (1 - mu^(period/H)) / (1 - mu), so that the
// gain in a steady direction and the memory, both counted in steps, stay.
OuterConfig outer_at(const OuterConfig& outer, int period, int local_steps);

}  // namespace fomoe
