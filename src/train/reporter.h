// What a run says of itself while it goes on: step and round lines, the live line, the metrics of
// each group, and the summary at the end.
#pragma once

#include <deque>
#include <memory>

#include "base/log.h"
#include "base/timer.h"
#include "config/config.h"
#include "federation/round.h"
#include "model/parameters.h"
#include "train/metrics_writer.h"
#include "train/profile.h"
#include "train/step.h"

namespace fomoe {

// Of one rank. Rank 0 speaks; local rank 0 of each group writes metrics, from write_to() on.
class Reporter {
public:
    // What is passed outlives it. `ceiling`: GFLOP/s that a matmul reaches on the group's ranks
    // together; the first step that is reported is the one behind `done`.
    Reporter(const Config& config, const World& world, const Placement& placement,
             const std::vector<Parameter>& all, double ceiling, int64_t done);

    bool speaks() const { return world_.rank == 0; }
    void write_to(std::unique_ptr<MetricsWriter> metrics) { metrics_ = std::move(metrics); }
    // Null where this rank writes none.
    MetricsWriter* metrics() const { return metrics_.get(); }
    // Steps are timed from here on.
    void begin() { since_start_ = Timer(); }

    // In the metrics of every group, and once in the log.
    void note(int64_t step, const std::string& text, LogLevel level = LogLevel::info);
    void step(int64_t step, const StepResult& result, std::span<const float> load,
              const StepTimes& times);
    void bad_step(int64_t step, const StepResult& result);
    void round_begins(int64_t step);
    // `router_entropy` as of RoundMetrics.
    void round(int64_t step, const Classes& due, const RoundResult& result,
               const std::vector<double>& router_entropy);
    void evaluation(const EvaluationMetrics& metrics);
    void checkpoint(int64_t step, const CheckpointMetrics& metrics);
    // All ranks of the job come here together. `done`: by this process, `seconds` in all.
    void summary(Communicator& job, int64_t steps_done, double seconds) const;
    // What went between the groups, if anything did.
    void traffic(int64_t step, int64_t rounds) const;

    // Bytes between groups since step 1, all groups together.
    TrafficBytes& sent() { return sent_; }

private:
    StepMetrics metrics_of(int64_t step, const StepResult& result) const;

    const Config& config_;
    const World& world_;
    const std::vector<Parameter>& all_;
    const double ceiling_;
    const int64_t done_before_;
    std::unique_ptr<MetricsWriter> metrics_;

    TrafficBytes sent_;
    RoundLoad round_load_;       // of this process's steps since the last round
    std::deque<double> losses_;  // of the last steps
    Timer since_start_;
    StepTimes times_;         // since the last report
    double executed_ = 0;     // choices since the last report, by the work of a resident's
    int64_t unreported_ = 0;  // steps since the last report
};

// Tokens of so many steps of all groups.
int64_t tokens_of_steps(const Config& config, int64_t steps);

}  // namespace fomoe
