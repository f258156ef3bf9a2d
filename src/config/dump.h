// Config -> YAML with every key, and the number that says whether two configs train alike.
#pragma once

#include <cstdint>
#include <string>

#include "config/config.h"

namespace fomoe {

// Loads to the same Config.
std::string dump_config(const Config& config);

// Hash over what changes the training. Left out: the run's name and length, logging, checkpoints,
// where the data lies, and how a group spreads its work (ranks, expert_parallel, micro_batch).
uint64_t config_fingerprint(const Config& config);

}  // namespace fomoe
