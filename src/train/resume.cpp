#include "train/resume.h"

#include <fmt/format.h>

#include <ranges>

#include "base/log.h"
#include "checkpoint/save.h"
#include "train/start_block.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;

// Steps of the run's checkpoints as rank 0 sees them, the one that is wanted first, then the
// newest.
std::vector<int64_t> steps_to_try(const RunPlan& plan, Communicator& job) {
    std::vector<int64_t> steps;
    if (job.rank() == 0)
        for (const auto& [step, path] :
             complete_checkpoints(plan.checkpoints()) | std::views::reverse)
            steps.insert(path == plan.checkpoint ? steps.begin() : steps.end(), step);
    int64_t n = std::ssize(steps);
    job.broadcast(view(&n, Shape(1)), 0);
    steps.resize(n);
    if (n > 0) job.broadcast(view(steps.data(), Shape(n)), 0);
    return steps;
}

std::string joined(const std::vector<std::string>& texts) {
    std::string all;
    for (const std::string& text : texts) all += (all.empty() ? "" : "; ") + text;
    return all;
}

}  // namespace

void choose_checkpoint(RunPlan& plan, Communicator& job) {
    if (!plan.automatic) {
        if (!plan.checkpoint) return;
        if (const std::string damage = damage_found(job, *plan.checkpoint); !damage.empty())
            throw Error(Exit::data, damage);
        return;
    }
    plan.checkpoint.reset();
    const std::vector<int64_t> steps = steps_to_try(plan, job);
    for (int64_t step : steps) {
        const fs::path path = plan.checkpoints() / step_directory(step);
        const std::string damage = damage_found(job, path);
        if (damage.empty()) {
            plan.checkpoint = path;
            return;
        }
        plan.damaged.push_back(path);
        if (job.rank() == 0) log_warning(fmt::format("{} is not whole: {}", path.string(), damage));
    }
    if (steps.empty()) return;
    throw Error(Exit::data,
                fmt::format("{}: no checkpoint here is whole; copy one again, or move the "
                            "directory away to start anew",
                            plan.checkpoints().string()));
}

void set_damaged_aside(const RunPlan& plan) {
    for (const fs::path& path : plan.damaged) {
        fs::path aside = path.string() + ".damaged";
        for (int n = 2; fs::exists(aside); ++n)
            aside = fmt::format("{}.damaged{}", path.string(), n);
        std::error_code failed;
        fs::rename(path, aside, failed);
        if (failed)
            throw Error(Exit::data, fmt::format("{}: cannot rename it to {}: {}", path.string(),
                                                aside.string(), failed.message()));
        log_warning(fmt::format("{} is now {}; remove it when nothing in it is needed",
                                path.string(), aside.filename().string()));
    }
}

void say_what_is_resumed(const Checkpoint& checkpoint, const ResumePoint& point,
                         const Config& config, int threads_per_rank, std::string_view backend) {
    log_info(fmt::format("resumed from {} at {}", checkpoint.directory().string(),
                         point.own_state ? where_groups_stand(checkpoint.manifest())
                                         : fmt::format("step {}", point.step)));
    const std::vector<std::string> changes =
        bit_changes(checkpoint, config, threads_per_rank, backend);
    if (point.own_state) {
        for (const std::string& change : changes)
            log_warning("the bits will not be those of a run that never stopped: " + change);
        return;
    }
    const std::string lost = point.dropped == 0
                                 ? "nothing is lost"
                                 : fmt::format("the local work of {} step{} behind it is dropped",
                                               point.dropped, point.dropped == 1 ? "" : "s");
    log_warning(
        fmt::format("{}: all go on from the union model and what was committed last, at "
                    "step {}; {}",
                    point.why_not, point.step, lost));
    log_warning("changed since the checkpoint: " + joined(changes));
}

}  // namespace fomoe
