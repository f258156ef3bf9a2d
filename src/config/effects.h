// What decides whether a key does anything: questions to a whole config, for the table of keys.
#pragma once

#include "config/config.h"

namespace fomoe {

bool explicit_placement(const Config& config);
bool has_routed_layers(const Config& config);
// Every group holds every expert by placement; a warm-up does not count.
bool full_replicas(const Config& config);
bool several_groups(const Config& config);
bool shards_experts(const Config& config);
// Whether a round steps anything: of what has one owner only the classes that the file names.
bool outer_steps(const Config& config);
// Whether a class steps by Nesterov momentum.
bool outer_momentum(const Config& config);

}  // namespace fomoe
