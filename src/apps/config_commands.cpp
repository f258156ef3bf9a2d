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

void check_run(const Config& config, RunPlan plan) {
    check_tokens(config, INT64_MAX);
    choose_checkpoint(plan, *make_self_communicator());
    if (!plan.checkpoint) return;
    const Checkpoint checkpoint(*plan.checkpoint);
    const ResumePoint point = resume_point(checkpoint.manifest(), checkpoint.config(), config);
    check_same_model(checkpoint, config,
                     all_parameters(config.model, Placement::in_step(config, point.step + 1)));
    log_info(fmt::format("would go on from {} at step {}", plan.checkpoint->string(), point.step));
    if (!point.own_state)
        log_info(fmt::format("{}: from what was committed last, {} steps would be dropped",
                             point.why_not, point.dropped));
}

}  // namespace fomoe
