// What fomoe-train says about configs without training: --help-config, --dump-config, --check.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "config/load.h"
#include "train/run_directory.h"

namespace fomoe {

struct ConfigCommands {
    std::string help;  // a section, a key, "all", "json" or "markdown"
    std::string dump;  // "full" or "minimal"
    bool check = false;
};
void add_config_commands(CLI::App& app, ConfigCommands& commands);

// On stdout. Needs no config.
void print_config_help(const std::string& what);
void print_config(const LoadedConfig& loaded, const std::string& how);

// What --check adds to what every start checks: all tokens, and that the checkpoint to go on from
// is whole and has this model and these groups. Throws as the run would.
void check_run(const Config& config, RunPlan plan);

}  // namespace fomoe
