// The lines that people and programs read.
#include "train/metrics.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"

using namespace fomoe;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

class Folder {
public:
    Folder() : path_(fs::temp_directory_path() / concat("fomoe-metrics-", getpid())) {
        fs::remove_all(path_);
    }
    ~Folder() { fs::remove_all(path_); }
    std::string file() const { return path_ / "metrics" / "west.jsonl"; }

private:
    fs::path path_;
};

std::vector<json> lines_of(const std::string& path) {
    std::vector<json> lines;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) lines.push_back(json::parse(line));
    return lines;
}

// Steps `from` to `to`, a round behind every fourth, as a run would write them.
void write_steps(MetricsWriter& writer, int64_t from, int64_t to) {
    for (int64_t s = from; s <= to; ++s) {
        writer.step({.step = s, .steps = 100, .loss = 10.0 - 0.1 * s});
        if (s % 4 == 0) writer.round({.round = s / 4, .step = s, .groups = 2, .groups_total = 2});
    }
}

}  // namespace

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

TEST_CASE("the lines of a calibration have their fields in a fixed order, and its events stand") {
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

    // Both belong to the step that the run stands at: a run that goes on from there keeps them.
    const Folder folder;
    MetricsWriter(folder.file(), "west", MetricsWriter::kNewRun).step({.step = 704});
    MetricsWriter calibration(folder.file(), "west", 704);
    calibration.calibration_step(step);
    calibration.calibration_end(end);
    MetricsWriter(folder.file(), "west", 704).step({.step = 705});
    const std::vector<json> lines = lines_of(folder.file());
    REQUIRE(lines.size() == 4);
    CHECK(lines[1]["event"] == "calibration_step");
    CHECK(lines[1]["step"] == 704);
    CHECK(lines[1]["calibration_step"] == 10);
    CHECK(lines[2]["event"] == "calibration_end");
    CHECK(lines[2]["sent_bytes"] == end.predicted_bytes);
    CHECK(lines[3]["step"] == 705);
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

TEST_CASE("every event is one JSON object, on the disk as soon as it is written") {
    const Folder folder;
    MetricsWriter writer(folder.file(), "west", MetricsWriter::kNewRun);
    writer.start(0, 100, 2);
    writer.step({.step = 1,
                 .loss = 5.5,
                 .affinity = 0.25,
                 .grad_norm = std::numeric_limits<double>::quiet_NaN()});
    writer.round({.round = 1,
                  .step = 1,
                  .classes = {true, false, true},
                  .counted = {.sent = {100, 0, 20, 7, 3}, .received = {}},
                  .own = {.sent = {50, 0, 10, 0, 1}, .received = {}},
                  .predicted_bytes = 124,
                  .cosine = {0.5, std::nullopt, -0.25},
                  .load = {.imbalance = {1.5, 2}, .entropy = {1, 0.5}, .skip = {}, .chance = {0.5}},
                  .hash = 10,
                  .total = {.sent = {1000, 2, 3, 0, 4}, .received = {}},
                  .baselines = {.data_parallel = 9000, .full_replicas = 3000}});
    Evaluation whole, own[2];
    whole.put("a", {.loss_sum = 6, .tokens = 2, .bytes = 4, .flops = 90, .computed = 3});
    whole.put("b", {});
    own[0].put("a", {.loss_sum = 8, .tokens = 2, .bytes = 4, .flops = 60, .computed = 3});
    own[1].put("a", {.loss_sum = 12, .tokens = 2, .bytes = 4, .flops = 60, .computed = 3});
    EvaluationMetrics evaluated{.round = 1,
                                .step = 1,
                                .results = {whole, {own[0], own[1]}, {}, {}},
                                .counted = {.sent = {0, 0, 0, 500, 16}, .received = {}},
                                .predicted_bytes = 515,
                                .seconds = 2};
    writer.evaluation(evaluated, 1);
    evaluated.results.own_models.clear();
    writer.evaluation(evaluated, 1);
    writer.checkpoint(1, "checkpoints/step-00000001", 0.5);
    writer.end(1, "stopped");

    const std::vector<json> lines = lines_of(folder.file());
    REQUIRE(lines.size() == 7);
    const std::vector<std::string> events{"start", "step",       "round", "eval",
                                          "eval",  "checkpoint", "end"};
    for (size_t i = 0; i < events.size(); ++i) {
        CHECK(lines[i]["event"] == events[i]);
        CHECK(lines[i]["group"] == "west");
        CHECK(lines[i]["step"] == (i == 0 ? 0 : 1));
    }
    CHECK(lines[1]["loss"] == 5.5);
    CHECK(lines[1]["affinity"] == 0.25);
    CHECK(lines[1]["grad_norm"].is_null());
    CHECK(lines[2]["sent_bytes"] == 130);
    CHECK(lines[2]["predicted_bytes"] == 124);
    CHECK(lines[2]["classes"] == json({"shared", "expert"}));
    CHECK(lines[2]["sent"] ==
          json({{"shared", 100}, {"router", 0}, {"expert", 20}, {"copies", 7}, {"control", 3}}));
    CHECK(lines[2]["sent_own"]["expert"] == 10);
    CHECK(lines[2]["cosine"] == json({{"shared", 0.5}, {"expert", -0.25}}));
    CHECK(!lines[2].contains("agree"));
    CHECK(lines[2]["load_imbalance"] == json({1.5, 2.0}));
    CHECK(lines[2]["load_entropy"] == json({1.0, 0.5}));
    CHECK(lines[2]["skip"] == json::array());
    CHECK(lines[2]["chance"] == json({0.5}));
    CHECK(lines[2]["sent_total"] == 1009);
    CHECK(lines[2]["data_parallel_bytes"] == 9000);
    CHECK(lines[2]["full_replica_bytes"] == 3000);
    CHECK(lines[2]["hash"] == "000000000000000a");
    CHECK(lines[3]["round"] == 1);
    CHECK(lines[3]["union"]["pooled"]["loss"] == 3);
    CHECK(lines[3]["union"]["domains"]["a"] == lines[3]["union"]["pooled"]);
    CHECK(lines[3]["union"]["domains"]["b"]["loss"].is_null());
    CHECK(lines[3]["own"]["pooled"]["loss"] == 6);
    CHECK(lines[3]["own"]["pooled"]["flops_per_token"] == 20);
    CHECK(lines[3]["gap"].get<double>() == Approx((6 - (8 + 12) / 2.0) / 4 / std::log(2.0)));
    CHECK(lines[3]["sent_bytes"] == 516);
    CHECK(lines[3]["predicted_bytes"] == 515);
    CHECK(lines[3]["sent"]["copies"] == 500);
    CHECK(lines[3]["seconds"] == 2);
    CHECK(!lines[4].contains("own"));
    CHECK(!lines[4].contains("gap"));
}

TEST_CASE("a resumed run has every step and round once") {
    const Folder folder;
    {
        MetricsWriter writer(folder.file(), "west", MetricsWriter::kNewRun);
        writer.start(0, 100, 2);
        write_steps(writer, 1, 10);
    }
    // Killed in the middle of a line, and goes on from the checkpoint of step 6.
    std::ofstream(folder.file(), std::ios::app) << R"({"event":"step","step":6,"lo)";
    {
        MetricsWriter writer(folder.file(), "west", 6);
        writer.start(6, 100, 2);
        write_steps(writer, 7, 12);
    }
    std::vector<int64_t> steps, rounds;
    for (const json& line : lines_of(folder.file())) {
        if (line["event"] == "step") steps.push_back(line["step"]);
        if (line["event"] == "round") rounds.push_back(line["round"]);
    }
    CHECK(steps == std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
    CHECK(rounds == std::vector<int64_t>{1, 2, 3});
}

TEST_CASE("a torn last line is taken away even when its step is kept") {
    const Folder folder;
    {
        MetricsWriter writer(folder.file(), "west", MetricsWriter::kNewRun);
        write_steps(writer, 1, 3);
    }
    // Complete but for the end of its line.
    std::ofstream(folder.file(), std::ios::app) << R"({"event":"step","step":4})";
    {
        MetricsWriter writer(folder.file(), "west", 5);
        write_steps(writer, 5, 5);
    }
    CHECK(lines_of(folder.file()).size() == 4);
    CHECK(lines_of(folder.file()).back()["step"] == 5);
}

TEST_CASE("a new run starts an empty file") {
    const Folder folder;
    { MetricsWriter(folder.file(), "west", MetricsWriter::kNewRun).start(0, 100, 2); }
    { MetricsWriter(folder.file(), "west", MetricsWriter::kNewRun).start(0, 50, 2); }
    REQUIRE(lines_of(folder.file()).size() == 1);
    CHECK(lines_of(folder.file())[0]["steps"] == 50);
}

TEST_CASE("a file that cannot be written is an error that names it") {
    try {
        MetricsWriter writer("/proc/none/west.jsonl", "west", MetricsWriter::kNewRun);
        FAIL("it was written");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::data);
        CHECK_THAT(error.what(), Catch::Matchers::Contains("/proc/none/west.jsonl"));
    }
}
