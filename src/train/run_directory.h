// runs/NAME: whether a run starts there, resumes there, or is refused.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "config/config.h"

namespace fomoe {

struct RunPlan {
    std::filesystem::path directory;                  // runs/NAME below the working directory
    std::optional<std::filesystem::path> checkpoint;  // to resume from
    bool automatic = false;                           // an older one of the run may take its place
    std::vector<std::filesystem::path> damaged;       // newer ones, which cannot be used
    std::string config_text;  // of config.yaml, with comments; empty: without

    std::filesystem::path checkpoints() const { return directory / "checkpoints"; }
    std::filesystem::path config_file() const { return directory / "config.yaml"; }
    std::filesystem::path log_file(int rank) const {
        return directory / "logs" / ("rank-" + std::to_string(rank) + ".log");
    }
    // What each rank is at.
    std::filesystem::path ranks_file() const { return directory / "logs" / "ranks"; }
    std::string saved_config(const Config& config) const;
    std::filesystem::path metrics_file(const std::string& group) const {
        return directory / "metrics" / (group + ".jsonl");
    }
};

// resume: `auto` takes the newest checkpoint of the run if there is one; `never` wants a new
// directory; anything else is the path of a checkpoint to take. A directory that holds a run of
// another config is refused with Error(usage) that names the keys, but under `auto` its groups and
// which experts they hold may be others.
RunPlan plan_run(const Config& config, const std::string& resume);

// Makes the directory, for one job at a time: while the lock is held, another gets Error(usage).
// For one rank of the job.
FileLock claim_run(const RunPlan& plan);

}  // namespace fomoe
