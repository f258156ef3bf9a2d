// Config -> YAML, and the number that says whether two configs train alike.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "config/config.h"

namespace fomoe {

// All load to the same Config: every key that the config has; what is not the default; every key
// with a comment that says where its value comes from, given LoadedConfig::origins.
std::string dump_config(const Config& config);
std::string dump_minimal(const Config& config);
std::string dump_with_origins(const Config& config,
                              const std::map<std::string, std::string>& origins);

// The one file that says which tokenizer a model.tokenizer other than bytes is: the file itself, or
// of a directory its token_table.json or tokenizer.model.
std::string tokenizer_file(const std::string& tokenizer);

// Hash over what changes the training. Left out: the run's name and length, logging, checkpoints,
// where data and tokenizer lie, and how a group spreads its work (ranks, expert_parallel,
// micro_batch).
uint64_t config_fingerprint(const Config& config);

// The config with the groups of another, and with what says which experts they hold and what
// becomes of choices of the others.
Config with_groups_of(Config config, const Config& other);

}  // namespace fomoe
