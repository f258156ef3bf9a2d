// metrics/GROUP.jsonl: the figures of a group's run, one JSON object a line.
//
// Every line has `event`, `step`, `group` and `time` (Unix seconds). Figures that are not finite
// are null. README explains the fields; they are the names of the structs in metrics.h, spelled
// out:
//
//   start             a run that begins or goes on: what it is made of
//   step              of a training step, each train.log_every steps
//   bad_step          in place of a step that changed nothing, and why
//   round             where the groups met, and how the tokens were spread since the round before
//   eval              of the union and the group's own model, with federation.evaluate_every
//   checkpoint        that became complete at this step: where it lies, what it took
//   note              `text`: what happened besides
//   end               `reason`: done, stopped on request, or failed with a `text`
//   calibration_step, calibration_end   of a calibration, at the step of the run it follows
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/line_file.h"
#include "plan/model.h"
#include "train/metrics.h"

namespace fomoe {

struct StartMetrics {
    int64_t step = 0;  // that is done; 0 for a new run
    int64_t steps = 0;
    bool resumed = false;
    std::string run, version;
    std::vector<std::string> groups;
    int ranks = 0;                // of the group
    int64_t tokens_per_step = 0;  // of the group
    int n_layers = 0, n_experts = 0, top_k = 0;
    std::vector<int> moe_layers;
    std::vector<std::vector<int>> residents;  // the group's expert ids, for each of moe_layers
    int local_steps = 0;
    std::string dtype, backend;
    std::map<std::string, double> epochs;  // of each source in the whole run, by all groups
    ParameterCounts parameters;
};

// For local rank 0 of a group. Each line is on the disk as a whole, or, on a full disk, not at all:
// then a warning says so once, training goes on, and a note tells how many lines are missing as
// soon as there is room again.
class MetricsWriter {
public:
    // A run that starts anew begins an empty file; one that resumes after `resumed_step` takes away
    // what was written for later steps, so that no step stands there twice; and for its round, if
    // that is still pending. Makes the folder.
    // Throws Error(data) when the file cannot be opened.
    static constexpr int64_t kNewRun = -1;
    MetricsWriter(const std::string& path, const std::string& group, int64_t resumed_step,
                  bool round_pending = false);

    void start(const StartMetrics& metrics);
    void step(const StepMetrics& metrics);
    // Of a step that changed nothing.
    void bad_step(int64_t step, const std::string& why, double loss, double grad_norm);
    void round(const RoundMetrics& metrics);
    // `group`: the writer's, whose own model is told.
    void evaluation(const EvaluationMetrics& metrics, int group);
    void checkpoint(int64_t step, const CheckpointMetrics& metrics);
    void note(int64_t step, const std::string& text);
    void end(int64_t step, const std::string& reason, const std::string& text = "");
    void calibration_step(const CalibrationStepMetrics& metrics);
    void calibration_end(const CalibrationMetrics& metrics);

private:
    void write(const nlohmann::ordered_json& line);

    LineFile file_;
    std::string group_;
    int64_t missing_ = 0;  // lines since the last that had room
    bool warned_ = false;
};

}  // namespace fomoe
