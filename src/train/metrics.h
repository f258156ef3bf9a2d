// The figures of a run, and the lines that people read of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "eval/perplexity.h"
#include "federation/baselines.h"
#include "federation/ledger.h"
#include "federation/similarity.h"
#include "train/round_load.h"

namespace fomoe {

struct StepMetrics {
    int64_t step = 0, steps = 0;  // steps: of the whole run
    double loss = 0;              // nats a token
    double aux = 0;               // balancing loss, without its weight
    double z = 0;                 // mean of logsumexp^2 of the router's logits
    double affinity = 0;          // mean of -log(router's mass on the residents), not its weight
    double grad_norm = 0;         // before clipping
    double lr = 0;
    double tokens_per_second = 0;  // of the group
    double mfu = 0;                // share of the matmul ceiling
    double imbalance = 0;          // largest over mean load of the experts
    double skip = 0;               // share of choices that are not executed
    double proxy = 0;              // share of choices that frozen copies serve
    double data_wait_seconds = 0;  // of a step of this rank, until its batch was there
    double eta_seconds = 0;        // to the end of the run
    int64_t tokens = 0;            // of the group since step 1
};

struct RoundMetrics {
    int64_t round = 0;
    int64_t step = 0;  // the last local step of the round
    int groups = 0;    // that contributed
    int groups_total = 0;
    Classes classes = kAllClasses;  // that took part
    TrafficBytes counted;           // all groups together
    TrafficBytes own;               // of this group
    int64_t predicted_bytes = 0;    // sent, from the table of spans
    double seconds = 0;
    double drift = 0;             // ||local - anchor|| / ||anchor|| of the shared span
    ByClass cosine;               // between the groups' pseudo-gradients
    std::optional<double> agree;  // share of equal expert choices of two groups on the probe
    LoadByLayer load;             // of this group's steps since the last round or the resume
    // Mean over the probe's tokens of the entropy of a token's router probabilities, in nats, by
    // layer with experts; empty without a probe.
    std::vector<double> router_entropy;
    uint64_t hash = 0;             // of what was committed
    TrafficBytes total;            // counted since step 1, all groups together
    BaselineBytes baselines = {};  // over the same steps
};

// A step of the calibration behind step `step` of the run.
struct CalibrationStepMetrics {
    int64_t step = 0, calibration_step = 0, steps = 0;
    double loss = 0, grad_norm = 0, lr = 0;  // as in StepMetrics
};

struct CalibrationMetrics {
    int64_t step = 0, steps = 0;
    double first_loss = 0, last_loss = 0;  // of the first group's batches
    // Sent by all groups together.
    int64_t copies_bytes = 0, router_bytes = 0, shared_bytes = 0, control_bytes = 0;
    int64_t predicted_bytes = 0;
    double seconds = 0;
    std::string path;  // of the calibrated model

    int64_t sent_bytes() const {
        return copies_bytes + router_bytes + shared_bytes + control_bytes;
    }
};

// Equal on all ranks, except for `seconds`.
struct EvaluationMetrics {
    int64_t round = 0;
    int64_t step = 0;      // the last local step of the round
    Evaluations results;   // without own models where they are the union
    TrafficBytes counted;  // all groups together
    int64_t predicted_bytes = 0;
    double seconds = 0;
};

struct CheckpointMetrics {
    std::filesystem::path path;
    double stall_seconds = 0;  // for which training stood
    double seconds = 0;        // until it was complete
    int64_t bytes = 0;         // of its files
};

// step 1200/50000 | loss 3.1271 | aux 0.0102 | gnorm 0.84 | lr 3.00e-04 | 41.3k tok/s | ...
// The name of the group stands before it.
std::string step_line(const std::string& group, const StepMetrics& metrics);
// round 37 | groups 4/4 | sent 2.62 MiB (predicted 2.62) | 0.31 s | drift 0.013 | cos 0.42 | ...
// The classes stand behind the groups when not all took part; cos is that of the shared class.
std::string round_line(const RoundMetrics& metrics);
// eval after round 12 | union 2.7811 bits/byte | own west 2.59, east 3.19 | gap -0.11 | 2.31 MiB of
// copies | 1.4 s; `groups` are all names.
std::string evaluation_line(const std::vector<std::string>& groups, const EvaluationMetrics& m);
// sent 206.8 MiB in 22 rounds (shared 190.1, router 2.0, expert 14.1, control 0.6) | data-parallel
// 36.2 GiB, 179x | full replicas 420 MiB, 2.03x: what a run has sent against what others would.
std::string sent_line(int64_t rounds, const TrafficBytes& total, const BaselineBytes& baselines);
// checkpoint runs/a/checkpoints/step-00000704 | 0.80 s; of one that was written beside training:
// | 0.08 s, written in 0.80 s.
std::string checkpoint_line(const CheckpointMetrics& metrics);
// [west] step 347/704 49% | loss 1.8312 | 11.6k tok/s | eta 1m02s
std::string live_line(const std::string& group, const StepMetrics& metrics);

// What a run has done since it was started or went on.
struct EndMetrics {
    int64_t steps = 0, tokens = 0;  // of all groups
    double seconds = 0;             // with rounds, checkpoints and all that is no step
    int loss_steps = 0;             // the last steps, whose mean loss is told
    std::vector<std::pair<std::string, double>> losses;  // by group
};
// trained 704 steps, 5.77M tokens in 2m16s: 42.4k tok/s, rounds and checkpoints included
// loss over the last 10 steps: west 1.6612, east 1.7120
std::vector<std::string> end_lines(const EndMetrics& metrics);

// calibration 10/60 | loss 1.9013 | gnorm 0.21 | lr 8.50e-04
std::string calibration_step_line(const std::string& group, const CalibrationStepMetrics& metrics);
// calibrated 60 steps | loss 1.9013 -> 1.8520 | sent 7.31 MiB (copies 7.01, ...) | ...
std::string calibration_line(const CalibrationMetrics& metrics);

std::vector<std::string> names_of(const Classes& classes);
std::string joined(const std::vector<std::string>& parts, const char* between);

// "41.3k", "1.25M", "2.10B"; "14m02s", "2h05m", "3d04h".
std::string short_count(double n);
std::string short_duration(double seconds);

}  // namespace fomoe
