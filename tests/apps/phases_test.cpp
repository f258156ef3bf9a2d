// Runs with a schedule and with a warm-up, through the whole programs.
#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

struct Phased {
    std::string name, groups;
    Command sets;
};
const std::string kTrio =
    "{name: west, ranks: 2, expert_parallel: 2}, {name: mid}, "
    "{name: east, ranks: 2, data: {two: 1.0}}";
// Rounds of 4 steps; the warm-up ends with step 8.
const Phased kBlocks{"blocks", kPair, {"--set", "federation.replication_warmup=2"}};
const Phased kListed{
    "listed",
    kTrio,
    {"--set", "federation.replication_warmup=2", "--set", "federation.placement=explicit", "--set",
     "topology.experts.west=[0-2, 5, 7]", "--set", "topology.experts.mid=[2-4]", "--set",
     "topology.experts.east=[0, 2, 6]", "--set", "federation.inner_state=reset", "--set",
     "federation.schedule={8: 2, 12: 8}"}};

// The learning rate does not depend on the length of the run.
Command train(const Workplace& place, const Phased& run, const std::string& name, int steps,
              const Command& more = {}) {
    Command words = run.sets;
    words.insert(words.end(),
                 {"--set", "name=" + name, "--set", "train.steps=" + std::to_string(steps), "--set",
                  "train.optimizer.schedule=constant"});
    words.insert(words.end(), more.begin(), more.end());
    return place.train(run.groups, words);
}

std::vector<int64_t> figures(const Workplace& place, const std::string& run,
                             const std::string& figure) {
    std::vector<int64_t> found;
    for (const Json& round : place.metrics(run, "west", "round")) found.push_back(round.at(figure));
    return found;
}

Json scores(const Workplace& place, const fs::path& checkpoint) {
    const Outcome result = place.run({program("fomoe-eval"), checkpoint, "--json"});
    INFO(result.err);
    REQUIRE(result.exit == 0);
    return Json::parse(result.out);
}

}  // namespace

TEST_CASE("a warm-up is full replicas, then the placement; the ledger and the log say so",
          "[mpi]") {
    const Workplace place;
    const Outcome said = place.trained(train(place, kBlocks, "warm", 16));
    const Phased full{"full", kPair, {"--set", "federation.replication=2"}};
    const Phased placed{"placed", kPair, {}};
    place.trained(train(place, full, "full", 8));
    place.trained(train(place, placed, "placed", 8));

    CHECK(differing(place.saved("warm", 8), place.saved("full", 8)) == Command{});
    const auto bytes = figures(place, "warm", "sent_bytes");
    CHECK(bytes == figures(place, "warm", "predicted_bytes"));
    auto expected = figures(place, "full", "sent_bytes");
    const auto later = figures(place, "placed", "sent_bytes");
    expected.insert(expected.end(), later.begin(), later.end());
    CHECK(bytes == expected);
    CHECK(bytes[1] > bytes[2]);

    CHECK(place.steps("warm", "west") == one_to(16));
    CHECK(place.steps("warm", "east") == one_to(16));
    CHECK(figures(place, "warm", "round") == std::vector<int64_t>{1, 2, 3, 4});
    CHECK(figures(place, "warm", "step") == std::vector<int64_t>{4, 8, 12, 16});
    const auto steps = place.metrics("warm", "east", "step");
    for (int i = 0; i < 16; ++i) CHECK((steps[i].at("skipped_share") > 0) == (i >= 8));
    const auto starts = place.metrics("warm", "west", "start");
    REQUIRE(starts.size() == 2);
    CHECK(starts[1].at("step") == 8);
    CHECK(place.metrics("warm", "west", "end").size() == 1);

    CHECK(count(said.err,
                "from step 1: rounds of 4 steps; every group holds every expert until "
                "step 8") == 1);
    CHECK(count(said.err, "from step 9: rounds of 4 steps\n") == 1);
    CHECK(count(said.err, "memory planned for rank 0") == 2);
    CHECK(count(said.err, "  0-7 of 8  ") == 2);
    CHECK(count(said.err, "  0-3 of 8  ") == 1);
    CHECK(count(said.err, "  4-7 of 8  ") == 1);
    CHECK(count(said.err, "resumed from") == 0);
    CHECK(count(said.err, "done at step") == 1);

    // A group's own model is what the group held when the checkpoint was written.
    const Json during = scores(place, place.checkpoint("warm", 8));
    for (const char* group : {"west", "east"})
        CHECK(during["groups"].at(group) == during.at("union"));
    const Json after = scores(place, place.run_directory("warm"));
    for (const char* group : {"west", "east"}) CHECK(after["groups"].at(group) != after["union"]);
}

TEST_CASE("a run with phases resumes bit for bit, from any step", "[mpi]") {
    const Workplace place;
    for (const Phased& run : {kBlocks, kListed}) {
        CAPTURE(run.name);
        const Command often{"--set", "checkpoint.every=1"};
        const Command groups =
            run.groups == kPair ? Command{"west", "east"} : Command{"west", "mid", "east"};
        place.trained(train(place, run, run.name, 24, often));
        if (run.name == "listed") {
            CHECK(figures(place, run.name, "step") == std::vector<int64_t>{4, 8, 10, 12, 20, 24});
            CHECK(figures(place, run.name, "sent_bytes") ==
                  figures(place, run.name, "predicted_bytes"));
        }
        // In the warm-up, at its end, in the round behind it, at and behind a new period.
        for (int from : {3, 8, 9, 12, 15}) {
            const std::string name = run.name + std::to_string(from);
            place.copy_run(run.name, name, from);
            const Outcome result = place.trained(train(place, run, name, 24, often));
            CHECK(count(result.err, "at step " + std::to_string(from)) >= 1);
            CHECK(count(result.err, "the bits will not be") == 0);
            check_same_run(place, name, run.name, 24, groups);
        }
    }
}

TEST_CASE("killed where the warm-up ends and resumed is never stopped", "[kill]") {
    const Workplace place;
    const Command endless = train(place, kListed, "killed", 1000000), groups{"west", "mid", "east"};
    // The run goes on and ends, and is as one that was never stopped.
    const auto check_resumed = [&] {
        const int steps = steps_behind(place, "killed", groups);
        fs::remove_all(place.run_directory("kept"));
        place.trained(train(place, kListed, "kept", steps));
        const Outcome result = place.trained(train(place, kListed, "killed", steps));
        check_same_run(place, "killed", "kept", steps, groups);
        return result.err;
    };
    for (const char* when : {"step-00000008", "from step 9", "step 9/"}) {
        CAPTURE(when);
        fs::remove_all(place.run_directory("killed"));
        Process process(endless, place.path());
        while (process.running() && process.err().find(when) == std::string::npos)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        REQUIRE(process.running());
        process.kill_all();
        const std::string said = check_resumed();
        CHECK(count(said, "step-00000008 at step 8") == 1);
        CHECK(count(said, "every group holds every expert") == 0);
    }
    // A request to stop that comes there is not lost with the phase.
    fs::remove_all(place.run_directory("killed"));
    Process process(endless, place.path());
    while (process.running() && process.err().find("step-00000008") == std::string::npos)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(process.pid(), SIGTERM);
    const Outcome stopped = process.wait();
    INFO(stopped.err);
    CHECK(stopped.exit == 75);
    check_resumed();
}

TEST_CASE("a schedule of the same rounds is no schedule, bit for bit", "[mpi]") {
    const Workplace place;
    const auto run = [&](const std::string& name, const std::string& schedule) {
        place.trained(
            train(place, {name, kPair, {"--set", "federation.schedule=" + schedule}}, name, 16));
    };
    run("none", "{}");
    run("same", "{4: 4, 12: 4}");
    run("longer", "{8: 8}");
    check_same_run(place, "same", "none", 16, {"west", "east"});
    CHECK(figures(place, "longer", "step") == std::vector<int64_t>{4, 8, 16});
    CHECK(place.metrics("longer", "west", "step")[7].at("loss") ==
          place.metrics("none", "west", "step")[7].at("loss"));
}

TEST_CASE("a checkpoint of full replicas starts a run of any placement", "[mpi]") {
    const Workplace place;
    place.trained(train(place, {"full", kTrio, {"--set", "federation.replication=3"}}, "full", 8));
    Phased placed = kListed;
    placed.sets.erase(placed.sets.begin(), placed.sets.begin() + 2);
    placed.sets.resize(8);
    const Outcome result = place.trained(
        train(place, placed, "placed", 12, {"--resume", place.checkpoint("full", 8)}));
    CHECK(count(result.err, "federation.placement: blocks then, explicit now") == 1);
    CHECK(place.steps("placed", "mid") == std::vector<int>{9, 10, 11, 12});
    CHECK(place.metrics("placed", "mid", "step").back().at("skipped_share") > 0);
    const Outcome back =
        place.trained(train(place, {"back", kTrio, {"--set", "federation.replication=3"}}, "back",
                            16, {"--resume", place.checkpoint("placed", 12)}));
    CHECK_THAT(back.err,
               Contains("the experts of 'west' in layer 0 were 0-2, 5, 7 and are now 0-7"));
    CHECK(place.steps("back", "mid") == std::vector<int>{13, 14, 15, 16});
}
