#include "train/run_directory.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ranges>

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

// Of the run that stands in the directory: the copy in a checkpoint, else where the run had it.
std::string tokenizer_of_run(const Config& saved,
                             const std::optional<std::filesystem::path>& newest) {
    if (!newest || saved.model.tokenizer == "bytes") return saved.model.tokenizer;
    const std::string copy = tokenizer_file(*newest / kModelDirectory);
    return std::filesystem::exists(copy) ? copy : saved.model.tokenizer;
}

// One that has moved away counts as the same: only without a checkpoint there is no copy, and then
// the run begins anew, with the tokenizer that is given.
bool same_tokenizer(const std::string& then, const std::string& now) {
    if (then == "bytes" || now == "bytes") return then == now;
    const std::string file = tokenizer_file(then);
    return !std::filesystem::exists(file) || hash_file(file) == hash_file(tokenizer_file(now));
}

std::string joined_names(auto&& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

// The run that stands in the directory must be this one. Its length, logging and ranks may change,
// and its groups where they may go on from what was committed.
enum class Groups { same, any };
void check_same_run(const RunPlan& plan, const Config& config, Groups groups,
                    const std::optional<std::filesystem::path>& newest) {
    if (!std::filesystem::exists(plan.config_file())) return;
    Config saved = load_saved_config(plan.config_file().string());
    if (groups == Groups::any) saved = with_groups_of(saved, config);
    std::string differences;
    const auto add = [&](const char* key, const std::string& then, const std::string& now) {
        differences += concat("\n  ", key, ": ", then, " then, ", now, " now");
    };
    const std::string tokenizer = tokenizer_of_run(saved, newest);
    if (!same_tokenizer(tokenizer, config.model.tokenizer))
        add("model.tokenizer", tokenizer, config.model.tokenizer);
    saved.model.tokenizer = config.model.tokenizer;
    if (differences.empty() && config_fingerprint(saved) == config_fingerprint(config)) return;

    const auto compare = [&](const char* key, const auto& names_of) {
        const std::string then = joined_names(names_of(saved)),
                          now = joined_names(names_of(config));
        if (then != now) add(key, then, now);
    };
    compare("data.sources", [](const Config& of) { return std::views::keys(of.data.sources); });
    compare("topology.groups", [](const Config& of) {
        return std::views::transform(of.topology.groups, &GroupConfig::name);
    });
    for (const std::string& line : config_differences(saved, config)) differences += "\n  " + line;
    throw Error(Exit::usage,
                concat(plan.directory.string(), " holds a run of another config (",
                       plan.config_file().string(), "):", differences,
                       "\nchoose another name for this one with --set name=..., or move that "
                       "directory away",
                       newest ? "" : "; it has no checkpoint, so that it can also be removed"));
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
        check_same_run(plan, config, Groups::any, newest);
        plan.checkpoint = newest;
        plan.automatic = true;
        return plan;
    }
    if (newest)
        throw Error(Exit::usage, concat("--resume ", resume, ": ", plan.directory.string(),
                                        " has checkpoints of a run already; use --resume auto, or "
                                        "another name with --set name=..."));
    check_same_run(plan, config, Groups::same, newest);
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
