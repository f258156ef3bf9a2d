// When the checkpoints of a run are due, and how they are written: at once, or from a copy by a
// thread beside training.
#pragma once

#include <future>
#include <optional>
#include <stop_token>

#include "base/timer.h"
#include "checkpoint/snapshot.h"
#include "train/reporter.h"
#include "train/run_state.h"

namespace fomoe {

// Of one rank; all ranks of the job make the same calls. A thread's failure is thrown by the next
// call, as it would have been by a save that waits.
class Saver {
public:
    // What is passed outlives it; where checkpoints are written behind training, this is collective
    // over the job.
    Saver(const Config& config, std::filesystem::path directory, Communicator& job,
          Backend& backend, Reporter& report);
    // Gives a checkpoint on its way some seconds, then gives it up.
    ~Saver();

    // The checkpoint that the run goes on from, if it is one of its own.
    void resumed(const Manifest& manifest);
    // What the checkpoint that the run goes on from has in its model/, where model.from_hf is gone.
    void use(ForeignTokenizer tokenizer) { tokenizer_ = std::move(tokenizer); }
    // The held-out loss of the union as it stands behind `step`.
    void evaluated(int64_t step, double loss);

    // Whether checkpoint.every asks for one behind this step. `met` says that all groups stand
    // here: an interval in time counts then only, by the clock of rank 0, which tells the others.
    bool due(int64_t step, bool met);

    // Collective over the job; a state that is saved already is not saved again. What is on its way
    // is waited for. `behind` may write while training goes on, else it is complete on return.
    enum class Write { behind, now };
    void save(const RunState& run, Manifest about, Write write);
    // Once a step: says what has become complete. `step` is the one at work.
    void poll(int64_t step);
    // Waits for what is on its way.
    void finish(int64_t step);

    // From the copy to the end, of the last one; 0 before.
    double last_seconds() const { return last_.seconds; }

private:
    void tell(int64_t step);

    const CheckpointConfig& config_;
    const std::filesystem::path directory_;
    Communicator& job_;
    Reporter& report_;
    const SaveOptions options_;
    ForeignTokenizer tokenizer_;

    Timer since_;  // the last one was begun
    int64_t saved_step_ = -1;
    std::vector<Manifest::Group> saved_groups_;
    int64_t evaluated_step_ = -1;
    double valid_loss_ = 0;
    CheckpointMetrics last_;

    Snapshot snapshot_;
    std::stop_source given_up_;
    std::unique_ptr<Communicator> background_;  // or null
    std::future<double> writing_;               // the seconds that it took
};

}  // namespace fomoe
