// fomoe-train --plan: what a config would take and send.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "config/config.h"

namespace fomoe {

struct PlanCommand {
    std::string format;  // "", text or json; empty: no plan is asked for
    std::string device;
    std::string bandwidth;  // "intra,inter" in Gbit/s
    std::optional<int> world;

    bool asked() const { return !format.empty(); }
};
void add_plan_options(CLI::App& app, PlanCommand& command);

// Prints the plan on stdout. The config is valid, its vocabulary size resolved. Throws
// Error(usage).
void print_plan(Config config, const PlanCommand& command);

// The config with `ranks` ranks in place of its own: every group has as much more or fewer as the
// others, all else stays. Throws Error(usage) that says which numbers would do, or what of the rest
// does not fit.
Config with_ranks(Config config, int ranks);

}  // namespace fomoe
