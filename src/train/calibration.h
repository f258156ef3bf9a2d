// The calibration of the union, the last phase of a run: with copies of the experts that it lacks a
// group has the whole model, and all groups together fit what ties the experts to each other.
#pragma once

#include "base/timer.h"
#include "device/device.h"
#include "federation/meeting.h"
#include "train/metrics_writer.h"
#include "train/run_directory.h"
#include "train/run_state.h"
#include "train/stop_requests.h"

namespace fomoe {

class Calibration {
public:
    // Collective over the job, which holds the run. Of one that is done: it starts from the run's
    // newest checkpoint, or from plan.checkpoint where the run has saved none.
    // config.calibration.steps is above 0.
    Calibration(const Config& config, const RunPlan& plan, Communicator& job,
                const RankDevice& device);

    // Where the calibrated union model is put: a checkpoint without the state of a training.
    static std::filesystem::path directory(const RunPlan& plan) {
        return plan.directory / "calibrated";
    }

    // Exit::done when the model is written, in place of an older one. Exit::resumable when a rank
    // of the job was asked to stop: an older one stands, and the next run begins anew. Throws
    // Error(diverged) and Error(communication). `meetings`: of the groups, held so far.
    Exit run(StopRequests& stop, uint64_t& meetings);

    // What this rank holds; after run() with the scales, which the experts then have in them.
    const ArenaLayout& layout() const { return layout_; }
    ConstTensor weights() { return step_.weights().on_host(); }

private:
    void start();
    void load_weights();
    void take_copies();
    void describe() const;
    StepResult take_step(int64_t step, bool stop);
    void report_step(int64_t step, const StepResult& result);
    void round(int64_t step);
    void fold_scales();
    void save();
    CalibrationMetrics metrics_of_all();
    bool speaks() const { return world_.rank == 0; }

    const Config run_;     // as the run was configured
    const Config config_;  // as its steps see it here
    const RunPlan plan_;
    Communicator& job_;
    Threads threads_;
    const int plan_threads_;  // of the CPU backend, 0: a device
    World world_;
    Placement placement_;
    std::vector<Parameter> all_;
    ArenaLayout layout_;
    ArenaLayout model_;  // the same without what calibration adds
    FrozenLayout frozen_;
    GroupCommunicators ranks_;
    Checkpoint checkpoint_;
    InnerStep step_;
    JobLink link_;
    FrozenCopies copies_;
    Federation federation_;  // of what is calibrated
    Loader loader_;
    std::unique_ptr<MetricsWriter> metrics_;  // local rank 0 of each group

    int64_t trained_steps_;  // of the run
    Timer since_start_;
    double first_loss_ = 0, last_loss_ = 0;
    int64_t predicted_bytes_ = 0;
};

}  // namespace fomoe
