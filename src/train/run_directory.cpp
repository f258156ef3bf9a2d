#include "train/run_directory.h"

#include "checkpoint/load.h"
#include "config/dump.h"
#include "config/load.h"

namespace fomoe {
namespace {

// A job that was killed may take a moment to go away.
constexpr double kClaimSeconds = 5;

// The run that stands in the directory must be this one. Its length, logging and ranks may change.
void check_same_run(const RunPlan& plan, const Config& config) {
    if (!std::filesystem::exists(plan.config_file())) return;
    const Config saved = load_config({plan.config_file().string()});
    if (config_fingerprint(saved) == config_fingerprint(config)) return;
    throw Error(Exit::usage,
                concat(plan.directory.string(), " holds a run of another config (",
                       plan.config_file().string(),
                       "); choose another name for this one with --set name=..., or move that "
                       "directory away"));
}

}  // namespace

std::string RunPlan::saved_config(const Config& config) const {
    return config_text.empty() ? dump_config(config) : config_text;
}

RunPlan plan_run(const Config& config, const std::string& resume) {
    RunPlan plan{.directory = std::filesystem::path("runs") / config.name,
                 .checkpoint = {},
                 .config_text = {}};
    const std::optional<std::filesystem::path> newest = newest_checkpoint(plan.directory);
    if (resume == "auto") {
        check_same_run(plan, config);
        plan.checkpoint = newest;
        return plan;
    }
    if (newest)
        throw Error(Exit::usage, concat("--resume ", resume, ": ", plan.directory.string(),
                                        " has checkpoints of a run already; use --resume auto, or "
                                        "another name with --set name=..."));
    check_same_run(plan, config);
    if (resume != "never") plan.checkpoint = find_checkpoint(resume);
    return plan;
}

FileLock claim_run(const RunPlan& plan) {
    std::error_code failed;
    std::filesystem::create_directories(plan.checkpoints(), failed);
    if (failed)
        throw Error(Exit::data,
                    concat(plan.checkpoints().string(), ": cannot create: ", failed.message()));
    const std::filesystem::path path = plan.directory / "lock";
    FileLock lock(path.string(), kClaimSeconds);
    if (!lock.held())
        throw Error(
            Exit::usage,
            concat(plan.directory.string(), ": another process trains this run now (it holds ",
                   path.string(), "); let it end, or choose another name with --set name=..."));
    return lock;
}

}  // namespace fomoe
