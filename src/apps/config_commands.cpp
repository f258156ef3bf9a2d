#include "apps/config_commands.h"

#include <fmt/format.h>

#include "base/log.h"
#include "checkpoint/load.h"
#include "config/dump.h"
#include "config/help.h"
#include "model/parameters.h"
#include "train/run.h"

namespace fomoe {

void add_config_commands(CLI::App& app, ConfigCommands& commands) {
    app.add_flag("--check", commands.check,
                 "Check config, tokens and the checkpoint to go on from; no run");
    app.add_flag("--dump-config{full}", commands.dump,
                 "Print the config: full, with sources; minimal: no defaults")
        ->check(CLI::IsMember({"full", "minimal"}));
    app.add_flag("--help-config{all}", commands.help,
                 "Print the keys of a config; =SECTION; =json: a JSON schema");
}

void print_config_help(const std::string& what) {
    if (what == "json")
        fmt::print("{}", config_schema());
    else if (what == "markdown")
        fmt::print("{}", config_tables());
    else
        fmt::print("{}", config_help(what == "all" ? "" : what));
}

void print_config(const LoadedConfig& loaded, const std::string& how) {
    fmt::print("{}", how == "minimal" ? dump_minimal(loaded.config)
                                      : dump_with_origins(loaded.config, loaded.origins));
}

void check_run(const Config& config, const RunPlan& plan) {
    check_tokens(config, INT64_MAX);
    if (!plan.checkpoint) return;
    const Checkpoint checkpoint(*plan.checkpoint, Verify::hashes);
    const Placement placement = Placement::in_step(config, checkpoint.manifest().step + 1);
    check_same_model(checkpoint, config, all_parameters(config.model, placement));
    check_same_groups(checkpoint, config);
    log_info(fmt::format("would go on from {} at step {}", plan.checkpoint->string(),
                         checkpoint.manifest().step));
}

}  // namespace fomoe
