#include "train/run_directory.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "checkpoint/load.h"
#include "config/dump.h"
#include "config/load.h"

namespace fomoe {
namespace {

// A job that was killed may take a moment to go away.
constexpr double kClaimSeconds = 5;

[[noreturn]] void cannot_create(const RunPlan& plan, const std::string& why) {
    throw Error(Exit::data, concat(plan.checkpoints().string(), ": cannot create: ", why));
}

// Before anything takes time. Changes nothing.
void check_writable(const RunPlan& plan) {
    std::filesystem::path there = std::filesystem::absolute(plan.checkpoints());
    while (!std::filesystem::exists(there)) there = there.parent_path();
    if (!std::filesystem::is_directory(there)) cannot_create(plan, std::strerror(ENOTDIR));
    if (access(there.c_str(), W_OK | X_OK) != 0) cannot_create(plan, std::strerror(errno));
}

// The run that stands in the directory must be this one. Its length, logging and ranks may change,
// and its groups where they may go on from what was committed.
enum class Groups { same, any };
void check_same_run(const RunPlan& plan, const Config& config, Groups groups) {
    if (!std::filesystem::exists(plan.config_file())) return;
    Config saved = load_saved_config(plan.config_file().string());
    if (groups == Groups::any) saved = with_groups_of(saved, config);
    // Its tokenizer may have moved since; a checkpoint has a copy.
    if (const auto newest = newest_checkpoint(plan.directory);
        newest && saved.model.tokenizer != "bytes" &&
        std::filesystem::exists(tokenizer_file(*newest / kModelDirectory)))
        saved.model.tokenizer = *newest / kModelDirectory;
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
    check_writable(plan);
    const std::optional<std::filesystem::path> newest = newest_checkpoint(plan.directory);
    if (resume == "auto") {
        check_same_run(plan, config, Groups::any);
        plan.checkpoint = newest;
        plan.automatic = true;
        return plan;
    }
    if (newest)
        throw Error(Exit::usage, concat("--resume ", resume, ": ", plan.directory.string(),
                                        " has checkpoints of a run already; use --resume auto, or "
                                        "another name with --set name=..."));
    check_same_run(plan, config, Groups::same);
    if (resume != "never") plan.checkpoint = find_checkpoint(resume);
    return plan;
}

FileLock claim_run(const RunPlan& plan) {
    std::error_code failed;
    std::filesystem::create_directories(plan.checkpoints(), failed);
    if (failed) cannot_create(plan, failed.message());
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
