// fomoe-train --calibrate: whole runs, and what the calibrated union is worth on held-out text.
#include <signal.h>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

double loss(const Workplace& place, const std::string& path, const std::string& model = "union") {
    const Outcome result = place.run({program("fomoe-eval"), path, "--json", "--mode", "union"});
    INFO(result.err);
    REQUIRE(result.exit == 0);
    return Json::parse(result.out).at(model)["pooled"]["loss"];
}

Command with(Command words, const Command& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

}  // namespace

TEST_CASE("a calibrated union of a partition is better on text that nobody has seen", "[mpi]") {
    const Workplace place;
    const std::string groups = "{name: west}, {name: east, data: {two: 1.0}}";
    const Command run = place.train(groups, {"--set", "train.steps=96"});
    place.trained(run);
    const auto before = tree(place.run_directory("tiny") / "checkpoints");
    const double raw = loss(place, "runs/tiny");

    std::map<std::string, double> calibrated;
    for (const char* weights : {"router", "shared"}) {
        const Outcome result =
            place.trained(with(run, {"--calibrate", "30", "--set", "calibration.lr=0.01", "--set",
                                     std::string("calibration.weights=") + weights}));
        CHECK(count(result.err, "done at step 96") == 1);
        CHECK(count(result.err, "calibrated 30 steps | loss ") == 1);
        CHECK(count(result.err, "[west] calibration ") == 30);
        calibrated[weights] = loss(place, "runs/tiny", "calibrated");
        CHECK(calibrated[weights] == loss(place, "runs/tiny/calibrated"));
    }
    CHECK(calibrated["router"] < raw - 0.02);
    CHECK(calibrated["shared"] < calibrated["router"]);
    CHECK(differing(before, tree(place.run_directory("tiny") / "checkpoints")) == Command{});
    CHECK(loss(place, "runs/tiny") == raw);
    for (const char* group : {"west", "east"}) {
        const auto ends = place.metrics("tiny", group, "calibration_end");
        REQUIRE(ends.size() == 2);
        for (const Json& end : ends) CHECK(end["sent_bytes"] == end["predicted_bytes"]);
        CHECK(ends[0]["copies_bytes"].get<int64_t>() > 0);
        CHECK(ends[0]["shared_bytes"].get<int64_t>() < ends[1]["shared_bytes"].get<int64_t>());
        CHECK(place.steps("tiny", group) == one_to(96));
    }
}

TEST_CASE("a run is finished first, then calibrated, under every policy for absent", "[mpi]") {
    const Workplace place;
    for (const std::string policy : {"skip", "renormalize", "reroute", "proxy"}) {
        CAPTURE(policy);
        const Command run =
            place.train(kPair, {"--set", "name=" + policy, "--set", "federation.absent=" + policy,
                                "--set", "calibration.steps=3"});
        const Outcome result = place.trained(run);
        CHECK(count(result.err, "done at step 12") == 1);
        CHECK(count(result.err, "calibrated 3 steps") == 1);
        const Json end = place.metrics(policy, "east", "calibration_end").at(0);
        CHECK(end["sent_bytes"] == end["predicted_bytes"]);
        const auto model = tree(place.run_directory(policy) / "calibrated" / "model");
        place.trained(with(run, {"--calibrate", "0"}));
        place.trained(run);
        CHECK(differing(model, tree(place.run_directory(policy) / "calibrated" / "model")) ==
              Command{});
        CHECK(place.metrics(policy, "east", "calibration_end").size() == 2);
    }
}

TEST_CASE("a calibration is asked to stop: the old one stands, and the next begins anew", "[mpi]") {
    const Workplace place;
    for (const std::string& groups : {kSolo, kPair}) {
        const Command run =
            place.train(groups, {"--set", groups == kSolo ? "name=one" : "name=pair"});
        const fs::path directory = place.run_directory(groups == kSolo ? "one" : "pair");
        place.trained(with(run, {"--calibrate", "2"}));
        const auto before = tree(directory / "calibrated");

        Process process(with(run, {"--calibrate", "100000"}), place.path());
        while (process.running() && process.err().find("calibration 3/") == std::string::npos)
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
        kill(process.pid(), SIGTERM);
        const Outcome result = process.wait();
        INFO(result.err);
        CHECK(result.exit == 75);
        CHECK(count(result.err, "calibration stopped at ") == 1);
        CHECK(differing(before, tree(directory / "calibrated")) == Command{});
        place.trained(with(run, {"--calibrate", "3"}));
        CHECK(differing(before, tree(directory / "calibrated")) != Command{});
    }
}

TEST_CASE("what cannot be calibrated is refused before anything starts") {
    const Workplace place;
    const auto refused = [&](const Command& more, const std::string& said) {
        const Outcome result = place.run(place.train(kSolo, more));
        INFO(result.err);
        CHECK(result.exit == 2);
        CHECK(count(result.out + result.err, said) == 1);
        CHECK_FALSE(fs::exists(place.path("runs")));
    };
    refused({"--calibrate", "-1"}, "--calibrate");
    refused({"--calibrate", "many"}, "--calibrate");
    refused({"--calibrate", "5", "--set", "model.moe.first_dense_layers=2", "--set",
             "model.moe.d_dense=8"},
            "calibration.steps: all layers are dense");
}
