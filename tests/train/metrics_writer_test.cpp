// The JSON lines of a group: what they say, what a resume takes away, what a full disk leaves.
#include "train/metrics_writer.h"

#include <sys/resource.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/temporary_directory.h"

using namespace fomoe;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

struct Folder : TemporaryDirectory {
    std::string file() const { return *this / "metrics/west.jsonl"; }
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
        if (s % 4 == 0) {
            writer.round({.round = s / 4, .step = s, .groups = 2, .groups_total = 2});
            writer.note(s, "a round");
        }
    }
}

}  // namespace

TEST_CASE("every event is one JSON object, on the disk as soon as it is written") {
    const Folder folder;
    MetricsWriter writer(folder.file(), "west", MetricsWriter::kNewRun);
    writer.start({.step = 0,
                  .steps = 100,
                  .resumed = true,
                  .run = "a\xff",
                  .version = "0.1.0",
                  .groups = {"west", "east"},
                  .ranks = 2,
                  .tokens_per_step = 512,
                  .n_layers = 3,
                  .n_experts = 4,
                  .top_k = 2,
                  .moe_layers = {1, 2},
                  .residents = {{0, 1}, {2, 3}},
                  .local_steps = 16,
                  .dtype = "bf16",
                  .backend = "cpu",
                  .epochs = {{"kernel", 1.5}},
                  .parameters = {9, 5, 4, 1, 4, 7}});
    writer.step({.step = 1,
                 .loss = 5.5,
                 .affinity = 0.25,
                 .grad_norm = std::numeric_limits<double>::quiet_NaN(),
                 .tokens = 4096});
    writer.round({.round = 1,
                  .step = 1,
                  .classes = {true, false, true},
                  .counted = {.sent = {100, 0, 20, 7, 3}, .received = {}},
                  .own = {.sent = {50, 0, 10, 0, 1}, .received = {}},
                  .predicted_bytes = 124,
                  .cosine = {0.5, std::nullopt, -0.25},
                  .load = {.imbalance = {1.5, 2},
                           .entropy = {1, 0.5},
                           .skip = {},
                           .chance = {0.5},
                           .executed = {{4, 0}, {1, 3}}},
                  .router_entropy = {0.5, 0.25},
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
    writer.checkpoint(1, {"checkpoints/step-00000001", 0.25, 0.5, 1000});
    writer.note(1, "a group was late");
    writer.end(1, "failed", "no room");

    const std::vector<json> lines = lines_of(folder.file());
    REQUIRE(lines.size() == 8);
    const std::vector<std::string> events{"start", "step",       "round", "eval",
                                          "eval",  "checkpoint", "note",  "end"};
    for (size_t i = 0; i < events.size(); ++i) {
        CHECK(lines[i]["event"] == events[i]);
        CHECK(lines[i]["group"] == "west");
        CHECK(lines[i]["step"] == (i == 0 ? 0 : 1));
        CHECK(lines[i]["time"].get<double>() > 1.7e9);
    }
    for (const auto& [key, value] : {std::pair<const char*, json>{"steps", 100},
                                     {"resumed", true},
                                     {"run", "a\uFFFD"},
                                     {"version", "0.1.0"},
                                     {"groups", {"west", "east"}},
                                     {"ranks", 2},
                                     {"tokens_per_step", 512},
                                     {"n_layers", 3},
                                     {"n_experts", 4},
                                     {"top_k", 2},
                                     {"moe_layers", {1, 2}},
                                     {"residents", {{0, 1}, {2, 3}}},
                                     {"local_steps", 16},
                                     {"dtype", "bf16"},
                                     {"backend", "cpu"},
                                     {"epochs", {{"kernel", 1.5}}},
                                     {"parameters",
                                      {{"total", 9},
                                       {"active", 5},
                                       {"shared", 4},
                                       {"router", 1},
                                       {"expert", 4},
                                       {"per_rank", 7}}}}) {
        INFO(key);
        CHECK(lines[0].at(key) == value);
    }
    CHECK(lines[1]["loss"] == 5.5);
    CHECK(lines[1]["affinity"] == 0.25);
    CHECK(lines[1]["grad_norm"].is_null());
    CHECK(lines[1]["tokens"] == 4096);
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
    CHECK(lines[2]["tokens_by_expert"] == json({{4, 0}, {1, 3}}));
    CHECK(lines[2]["router_entropy"] == json({0.5, 0.25}));
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
    CHECK(lines[5]["path"] == "checkpoints/step-00000001");
    CHECK(lines[5]["stall_seconds"] == 0.25);
    CHECK(lines[5]["seconds"] == 0.5);
    CHECK(lines[5]["bytes"] == 1000);
    CHECK(lines[6]["text"] == "a group was late");
    CHECK(lines[7]["reason"] == "failed");
    CHECK(lines[7]["text"] == "no room");
}

TEST_CASE("a resumed run has every step and round once") {
    const Folder folder;
    {
        MetricsWriter writer(folder.file(), "west", MetricsWriter::kNewRun);
        writer.start({.step = 0, .steps = 100});
        write_steps(writer, 1, 10);
    }
    // Killed in the middle of a line, and goes on from the checkpoint of step 6.
    std::ofstream(folder.file(), std::ios::app) << R"({"event":"step","step":6,"lo)";
    {
        MetricsWriter writer(folder.file(), "west", 6);
        writer.start({.step = 6, .steps = 100});
        write_steps(writer, 7, 12);
    }
    std::vector<int64_t> steps, rounds, notes;
    for (const json& line : lines_of(folder.file())) {
        if (line["event"] == "step") steps.push_back(line["step"]);
        if (line["event"] == "round") rounds.push_back(line["round"]);
        if (line["event"] == "note") notes.push_back(line["step"]);
    }
    CHECK(steps == std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
    CHECK(rounds == std::vector<int64_t>{1, 2, 3});
    CHECK(notes == std::vector<int64_t>{4, 8, 12});
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
    { MetricsWriter(folder.file(), "west", MetricsWriter::kNewRun).start({.steps = 100}); }
    { MetricsWriter(folder.file(), "west", MetricsWriter::kNewRun).start({.steps = 50}); }
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

TEST_CASE("the events of a calibration belong to the step that the run stands at") {
    const Folder folder;
    MetricsWriter(folder.file(), "west", MetricsWriter::kNewRun).step({.step = 704});
    MetricsWriter calibration(folder.file(), "west", 704);
    calibration.calibration_step({.step = 704, .calibration_step = 10, .steps = 60});
    calibration.calibration_end({.step = 704, .steps = 60, .router_bytes = 30});
    MetricsWriter(folder.file(), "west", 704).step({.step = 705});
    const std::vector<json> lines = lines_of(folder.file());
    REQUIRE(lines.size() == 4);
    CHECK(lines[1]["event"] == "calibration_step");
    CHECK(lines[1]["step"] == 704);
    CHECK(lines[1]["calibration_step"] == 10);
    CHECK(lines[2]["event"] == "calibration_end");
    CHECK(lines[2]["sent_bytes"] == 30);
    CHECK(lines[3]["step"] == 705);
}

TEST_CASE("a full disk costs lines of the metrics, and leaves no torn ones") {
    const Folder folder;
    struct rlimit before;
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);  // so that a write fails with EFBIG
    {
        MetricsWriter writer(folder.file(), "west", MetricsWriter::kNewRun);
        writer.step({.step = 1});
        const struct rlimit full { fs::file_size(folder.file()) + 20, before.rlim_max };
        setrlimit(RLIMIT_FSIZE, &full);
        write_steps(writer, 2, 4);
        setrlimit(RLIMIT_FSIZE, &before);
        CHECK(fs::file_size(folder.file()) == full.rlim_cur - 20);
        write_steps(writer, 5, 6);
    }
    signal(SIGXFSZ, SIG_DFL);
    const std::vector<json> lines = lines_of(folder.file());
    REQUIRE(lines.size() == 4);
    CHECK(lines[0]["step"] == 1);
    CHECK(lines[1]["event"] == "note");
    CHECK(lines[1]["text"] == "5 lines are missing here: there was no room for them");
    CHECK(lines[2]["step"] == 5);
    CHECK(lines[3]["step"] == 6);
}

TEST_CASE("a device that is always full does not end a run") {
    const Folder folder;
    fs::create_directories(folder / "metrics");
    fs::create_symlink("/dev/full", folder.file());
    MetricsWriter writer(folder.file(), "west", MetricsWriter::kNewRun);
    write_steps(writer, 1, 8);
}
