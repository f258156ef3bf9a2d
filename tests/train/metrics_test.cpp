// The lines that people read.
#include "train/metrics.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

using namespace fomoe;

TEST_CASE("a step line has its fields in a fixed order") {
    const StepMetrics metrics{.step = 1200,
                              .steps = 50000,
                              .loss = 3.12714,
                              .aux = 0.01023,
                              .z = 0.5,
                              .affinity = 0.7,
                              .grad_norm = 0.8412,
                              .lr = 3e-4,
                              .tokens_per_second = 41312,
                              .mfu = 0.608,
                              .imbalance = 1.2123,
                              .skip = 0.2479,
                              .eta_seconds = 842};
    CHECK(step_line("west", metrics) ==
          "[west] step 1200/50000 | loss 3.1271 | aux 0.0102 | gnorm 0.84 | lr 3.00e-04 | "
          "41.3k tok/s | mfu 61% | imb 1.21 | skip 24.8% | eta 14m02s");
}

TEST_CASE("the lines of a calibration have their fields in a fixed order") {
    const CalibrationStepMetrics step{.step = 704,
                                      .calibration_step = 10,
                                      .steps = 60,
                                      .loss = 1.90134,
                                      .grad_norm = 0.2141,
                                      .lr = 8.5e-4};
    CHECK(calibration_step_line("west", step) ==
          "[west] calibration 10/60 | loss 1.9013 | gnorm 0.21 | lr 8.50e-04");
    constexpr int64_t kMiB = 1 << 20;
    const CalibrationMetrics end{.step = 704,
                                 .steps = 60,
                                 .first_loss = 1.9,
                                 .last_loss = 1.8,
                                 .copies_bytes = 3 * kMiB,
                                 .router_bytes = 2 * kMiB,
                                 .shared_bytes = kMiB,
                                 .control_bytes = kMiB / 2,
                                 .predicted_bytes = 6 * kMiB + kMiB / 2,
                                 .seconds = 1.25,
                                 .path = "runs/a/calibrated"};
    CHECK(calibration_line(end) ==
          "calibrated 60 steps | loss 1.9000 -> 1.8000 | sent 6.50 MiB (copies 3.00, router 2.00, "
          "shared 1.00, control 0.50) | predicted 6.50 | 1.25 s | runs/a/calibrated");
}

TEST_CASE("a round line has its fields in a fixed order") {
    const RoundMetrics metrics{.round = 37,
                               .step = 1184,
                               .groups = 4,
                               .groups_total = 4,
                               .counted = {.sent = {2747200, 9, 0, 0, 60}, .received = {}},
                               .predicted_bytes = 2747269,
                               .seconds = 0.312,
                               .drift = 0.01312,
                               .cosine = {0.4249, 0.7, std::nullopt},
                               .agree = 0.934,
                               .hash = 0x12349f3c};
    CHECK(round_line(metrics) ==
          "round 37 | groups 4/4 | sent 2.62 MiB (predicted 2.62) | 0.31 s | drift 0.013 | "
          "cos 0.42 | agree 0.93 | hash 9f3c");
    RoundMetrics some = metrics;
    some.classes = {true, true, false};
    CHECK(round_line(some) ==
          "round 37 | groups 4/4 | shared router | sent 2.62 MiB (predicted 2.62) | 0.31 s | "
          "drift 0.013 | cos 0.42 | agree 0.93 | hash 9f3c");
    some.classes = {false, true, false};
    some.cosine[0] = some.agree = std::nullopt;
    CHECK(round_line(some) ==
          "round 37 | groups 4/4 | router | sent 2.62 MiB (predicted 2.62) | 0.31 s | "
          "drift 0.013 | hash 9f3c");
}

TEST_CASE("a line about an evaluation has what there was") {
    const auto model = [](double bits) {
        Evaluation evaluation;
        evaluation.put("a", {.loss_sum = 100 * bits * std::log(2.0), .tokens = 90, .bytes = 100});
        return evaluation;
    };
    EvaluationMetrics metrics{.round = 12,
                              .results = {model(2.78114), {model(2.587), model(3.191)}, {}, {}},
                              .counted = {.sent = {0, 0, 0, 2420000, 4000}, .received = {}},
                              .seconds = 1.44};
    const std::vector<std::string> groups{"west", "east"};
    CHECK(evaluation_line(groups, metrics) ==
          "eval after round 12 | union 2.7811 bits/byte | own west 2.59, east 3.19 | gap -0.11 | "
          "2.31 MiB of copies | 1.4 s");
    metrics.results.own_models.clear();
    CHECK(evaluation_line(groups, metrics) ==
          "eval after round 12 | union 2.7811 bits/byte | 2.31 MiB of copies | 1.4 s");
    metrics.counted = {};
    CHECK(evaluation_line(groups, metrics) ==
          "eval after round 12 | union 2.7811 bits/byte | 1.4 s");
    // Where the bytes of the text are not known, losses stand for them.
    metrics.results = {model(2.78114), {model(2.587), model(3.191)}, {}, {}};
    metrics.results.own_models[1].pooled.bytes = std::nan("");
    metrics.results.union_model->pooled.bytes = std::nan("");
    CHECK(evaluation_line(groups, metrics) ==
          "eval after round 12 | union 2.1419 nats/token | own west 1.99, east 2.46 | 1.4 s");
}

TEST_CASE("a line about a checkpoint says how long training stood") {
    CHECK(checkpoint_line({"runs/a/checkpoints/step-00000004", 0.8, 0.8, 1000}) ==
          "checkpoint runs/a/checkpoints/step-00000004 | 0.80 s");
    CHECK(checkpoint_line({"runs/a/checkpoints/step-00000004", 0.08, 0.8, 1000}) ==
          "checkpoint runs/a/checkpoints/step-00000004 | 0.08 s, written in 0.80 s");
}

TEST_CASE("the line at the end compares what was sent") {
    const int64_t MiB = 1 << 20;
    const TrafficBytes total{.sent = {190 * MiB, 2 * MiB, 14 * MiB, 0, MiB / 2}, .received = {}};
    CHECK(sent_line(22, total, {.data_parallel = 36250 * MiB, .full_replicas = 419 * MiB}) ==
          "sent 206.5 MiB in 22 rounds (shared 190.0, router 2.0, expert 14.0, control 0.5) | "
          "data-parallel 35.4 GiB, 176x | full replicas 419 MiB, 2.03x");
    const TrafficBytes little{.sent = {0, 0, 0, 1024, 512}, .received = {}};
    CHECK(sent_line(1, little, {.data_parallel = 5000, .full_replicas = 256}) ==
          "sent 1.5 KiB in 1 round (copies 1.0, control 0.5) | data-parallel 4.88 KiB, 3.26x | "
          "full replicas 0.25 KiB, 0.17x");
}

TEST_CASE("counts and durations take the unit that fits") {
    CHECK(short_count(812.4) == "812");
    CHECK(short_count(999.7) == "1.0k");
    CHECK(short_count(1254000) == "1.25M");
    CHECK(short_duration(0.4) == "0s");
    CHECK(short_duration(59.6) == "1m00s");
    CHECK(short_duration(7500) == "2h05m");
    CHECK(short_duration(3 * 86400 + 4 * 3600) == "3d04h");
    CHECK(short_duration(std::numeric_limits<double>::infinity()) == "?");
}
