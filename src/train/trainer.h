// A run as long as its groups hold the same experts: steps in every group, rounds between them,
// checkpoints, and what is said about it all.
#pragma once

#include "base/log.h"
#include "base/timer.h"
#include "comm/activity.h"
#include "config/phases.h"
#include "device/device.h"
#include "federation/meeting.h"
#include "plan/memory.h"
#include "train/call_limits.h"
#include "train/evaluation.h"
#include "train/probe.h"
#include "train/profile.h"
#include "train/reporter.h"
#include "train/resume.h"
#include "train/run_state.h"
#include "train/saver.h"
#include "train/start_block.h"
#include "train/stop_requests.h"

namespace fomoe {

// From a bad step to a checkpoint, under train.bad_step.action `rollback`.
struct Rollback {
    std::optional<std::filesystem::path> checkpoint{};  // none: the start of the run
    int64_t skipped_batches = 0;  // that the group's data runs ahead of its steps from now on
    int64_t times = 0;            // in a row that the run went back to this checkpoint
    std::string why{};
};

// What a process holds from the start of a run to its end.
struct RunHold {
    StopRequests& stop;                  // of this rank
    Activity& activity;                  // of this rank
    uint64_t meetings = 0;               // of the groups, held so far
    std::optional<FileLock> lock{};      // of the run's directory; rank 0
    bool begun = false;                  // some Trainer of it has started
    Timer timer{};                       // since the first step
    int64_t steps_done = 0;              // by this process
    StepTimes times{};                   // of them
    std::optional<Rollback> rollback{};  // that led to the Trainer at work
};

// Where a group stands in a run.
struct Standing {
    int64_t step = 0;             // done
    bool round_pending = false;   // the round of this step is still before it
    int64_t farthest = 0;         // step that some group has done
    int64_t skipped_batches = 0;  // that its data has run ahead of its steps
};

class Trainer {
public:
    // Collective over the job. config.model.vocab_size must be resolved. Begins in the phase that
    // follows on the checkpoint of the plan.
    Trainer(const Config& config, const RunPlan& plan, Communicator& job, const RankDevice& device,
            RunHold& hold);

    // Exit::done at last_step(), Exit::resumable when asked to stop: the state is saved then, each
    // group's as of its next step boundary. Exit::done, too, where a bad step of some group leads
    // back to the checkpoint of rollback(): another Trainer has to go on from there.
    // Throws Error(diverged) and Error(communication).
    Exit run();
    const std::optional<Rollback>& rollback() const { return rollback_; }
    // The last step of the run, or of the phases in which its groups hold the same experts.
    int64_t last_step() const { return last_step_; }

private:
    Exit train();
    MemoryPlan planned_memory() const;
    // As of memory_plan.
    int plan_threads() const { return backend_.host_memory() ? threads_.count : 0; }
    void describe(const std::vector<RankPlace>& places) const;
    void start_or_resume();
    void enter_phase(int64_t step);
    bool stopped_at_start();
    std::optional<Purpose> take_step();
    Rollback go_back();
    Classes due_at(int64_t step) const;
    bool saves_at(int64_t step) const;
    void round(int64_t step, const Classes& due);
    void evaluate(int64_t step, const Classes& due, const RoundResult& result);
    void save(Saver::Write write);
    Exit end(bool stopped);
    bool speaks() const { return report_.speaks(); }
    RunState state() {
        return {config_, all_, placement_, world_, layout_, frozen_, step_, federation_};
    }

    const Config config_;
    const RunPlan plan_;
    Communicator& job_;
    Backend& backend_;
    Threads threads_;
    RunHold& hold_;
    const CallLimits limits_;
    World world_;
    const Standing start_;
    Phase phase_;  // of the step at work
    const int64_t last_step_;
    Placement placement_;
    std::vector<Parameter> all_;
    ArenaLayout layout_;
    FrozenLayout frozen_;  // under `proxy`
    GroupCommunicators ranks_;
    double ceiling_;         // GFLOP/s of the group's ranks together
    int64_t memory_before_;  // bytes held before what follows
    InnerStep step_;
    JobLink link_;
    FrozenCopies frozen_copies_;
    Federation federation_;
    Loader loader_;
    std::optional<Probe> probe_;  // with several groups
    std::optional<TrainingEvaluation> evaluation_;
    Reporter report_;
    Saver saver_;

    Meeting meeting_;
    int64_t step_now_;         // at work, or the last one
    bool round_pending_;       // that of step_now_ is still before this group
    std::string saved_where_;  // "step 9": where the groups stood then
    // What a bad step leads back to, and where this group stood in it.
    std::optional<std::filesystem::path> last_checkpoint_;
    int64_t last_saved_step_;
    int64_t skipped_batches_;  // that the group's data runs ahead of its steps
    std::string bad_;          // why the last step was bad
    std::optional<Rollback> rollback_;
};

}  // namespace fomoe
