// Stopped in whatever way and started again: the same bits as a run that never stopped.
#include <array>
#include <numeric>
#include <random>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

// A checkpoint every 3 steps, rounds every 4: most of them in the middle of a round.
Command federation(const Workplace& place, const std::string& name, int steps) {
    return place.train(kPair, {"--set", "name=" + name, "--set", "checkpoint.every=3", "--set",
                               "train.steps=" + std::to_string(steps), "--set",
                               "train.optimizer.schedule=linear"});
}

// Where a SIGKILL hits.
enum class Moment { training, one_process, saving, round, evaluation };
constexpr int kMoments = 5;

// Waits for the moment; false when the run ended first.
bool await_moment(Process& process, Moment moment, const fs::path& run) {
    const auto waits = [&](const auto& happened) {
        while (!happened()) {
            if (!process.running()) return false;
            std::this_thread::yield();
        }
        return true;
    };
    const auto grows = [&](const fs::path& file, const std::string& text) {
        const int before = count(read_text(file), text);
        return waits([&] { return count(read_text(file), text) > before; });
    };
    switch (moment) {
        case Moment::saving:
            return waits([&] {
                std::error_code gone;
                for (const auto& entry : fs::directory_iterator(run / "checkpoints", gone))
                    if (entry.path().extension() == ".tmp") return true;
                return false;
            });
        case Moment::round:
            return grows(run / "logs" / "rank-1.log", "begins");
        case Moment::evaluation:  // follows on the round at once
            return grows(run / "metrics" / "west.jsonl", "\"event\":\"round\"");
        default:
            return true;
    }
}

// That a run has written down; 0 before its first.
int last_step(const Workplace& place, const std::string& name) {
    const std::string text = read_text(place.run_directory(name) / "metrics" / "west.jsonl");
    const std::string before = R"("event":"step","step":)";
    const size_t at = text.rfind(before);
    return at == std::string::npos ? 0 : std::atoi(&text[at + before.size()]);
}

}  // namespace

// FOMOE_TEST_KILLS: how many, if not a few.
TEST_CASE("killed at any moment and resumed is never stopped, bit for bit", "[kill]") {
    const Workplace place;
    const char* asked = std::getenv("FOMOE_TEST_KILLS");
    const int wanted = asked ? std::atoi(asked) : 6;
    auto words = [&](const std::string& name, int steps) {
        Command words = federation(place, name, steps);
        words.insert(words.end(), {"--set", "federation.evaluate_every=1", "--set",
                                   "train.optimizer.schedule=constant"});
        return words;
    };

    const unsigned seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    auto below = [&](int n) { return static_cast<int>(random() % n); };
    std::array<int, kMoments> kills{};
    for (int n = 0, at = 0; n < wanted; ++n) {
        const Moment moment{n % kMoments};
        // Directly under mpirun in every other life, so that ranks can be killed one by one.
        const Command endless = words("killed", 1000000);
        Process process(n % 2 ? on_ranks(4, endless) : endless, place.path());
        at = std::max(at, last_step(place, "killed")) + 2 + below(30);
        REQUIRE(reached(place, process, "killed", at));
        REQUIRE(await_moment(process, moment, place.run_directory("killed")));
        std::this_thread::sleep_for(
            std::chrono::microseconds(below(moment == Moment::training ? 30000 : 3000)));
        REQUIRE(process.running());
        if (moment == Moment::one_process) {
            // The others must end as well.
            kill(process_of(place, "killed", below(4)), SIGKILL);
            CHECK(process.wait().exit != 0);
        } else {
            process.kill_all();
        }
        ++kills[static_cast<int>(moment)];
    }
    const int all = std::accumulate(kills.begin(), kills.end(), 0);
    CHECK(all == wanted);
    const int steps = steps_behind(place, "killed", {"west", "east"});
    for (const char* name : {"killed", "kept"}) place.trained(words(name, steps));
    check_same_run(place, "killed", "kept", steps, {"west", "east"});
    for (const auto& [name, bytes] : tree(place.run_directory("killed") / "checkpoints"))
        CHECK(name.find(".tmp") == std::string::npos);
    std::printf(
        "%d SIGKILLs in %d steps on 4 ranks: %d in training, %d of one process alone, %d "
        "while saving, %d in rounds, %d in evaluations\n",
        all, steps, kills[0], kills[1], kills[2], kills[3], kills[4]);
}

TEST_CASE("periods of the classes and restarted moments resume bit for bit, from any step",
          "[mpi]") {
    const Workplace place;
    auto words = [&](const std::string& name, const std::string& inner_state = "reset") {
        return place.train(
            kPair, {"--set", "name=" + name, "--set", "checkpoint.every=1", "--set",
                    "federation.replication=2", "--set", "federation.router.local_steps=2", "--set",
                    "federation.expert.local_steps=8", "--set", "federation.reject_above=4",
                    "--set", "federation.inner_state=" + inner_state});
    };
    place.trained(words("kept"));
    // Moments that go on make another run, from the first round on.
    place.trained(words("going_on", "keep"));
    const auto reset = place.metrics("kept", "west", "step");
    const auto keep = place.metrics("going_on", "west", "step");
    CHECK(reset[2].at("loss") == keep[2].at("loss"));
    CHECK(reset[3].at("loss") != keep[3].at("loss"));

    // Between rounds of the router; at one; at one of the shared class while the experts wait.
    for (int from : {3, 6, 9}) {
        const std::string name = "from" + std::to_string(from);
        place.copy_run("kept", name, from);
        const Outcome result = place.trained(words(name));
        CHECK(count(result.err, "at step " + std::to_string(from)) >= 1);
        check_same_run(place, name, "kept", 12, {"west", "east"});
    }
}

TEST_CASE("averaged moments resume bit for bit, also between their rounds", "[mpi]") {
    const Workplace place;
    auto words = [&](const std::string& name, const std::string& inner_state = "average") {
        Command more{"--set", "name=" + name,
                     "--set", "checkpoint.every=3",
                     "--set", "federation.replication=2",
                     "--set", "federation.local_steps=2",
                     "--set", "federation.inner_state=" + inner_state};
        if (inner_state == "average")
            more.insert(more.end(), {"--set", "federation.first_moment.local_steps=4", "--set",
                                     "federation.second_moment.local_steps=8"});
        return place.train(kPair, more);
    };
    place.trained(words("kept"));
    // The first moments are averaged after step 4.
    place.trained(words("going_on", "keep"));
    const auto averaged = place.metrics("kept", "west", "step");
    const auto keep = place.metrics("going_on", "west", "step");
    CHECK(averaged[4].at("loss") == keep[4].at("loss"));
    CHECK(averaged[5].at("loss") != keep[5].at("loss"));
    for (int from : {3, 6, 9}) {
        const std::string name = "from" + std::to_string(from);
        place.copy_run("kept", name, from);
        const Outcome result = place.trained(words(name));
        CHECK(count(result.err, "at step " + std::to_string(from)) >= 1);
        check_same_run(place, name, "kept", 12, {"west", "east"});
    }
}

TEST_CASE("weights by tokens and the federation's balance resume bit for bit, from any step",
          "[mpi]") {
    const Workplace place;
    auto words = [&](const std::string& name, const Command& policy) {
        Command sets{"--set", "name=" + name,
                     "--set", "checkpoint.every=1",
                     "--set", "federation.replication=2",
                     "--set", "federation.router.local_steps=8"};
        sets.insert(sets.end(), policy.begin(), policy.end());
        return place.train(kPair, sets);
    };
    const Command tokens{"--set", "federation.weights=tokens", "--set",
                         "federation.router.average=owners"};
    Command both = tokens;
    both.insert(both.end(), {"--set", "model.moe.aux_scope=federation"});
    place.trained(words("kept", both));
    // Each of the policies makes another run.
    place.trained(words("plain", {}));
    place.trained(words("tokens", tokens));
    const auto hash = [&](const std::string& name, int round) {
        return place.metrics(name, "west", "round").at(round).at("hash");
    };
    CHECK(hash("plain", 0) != hash("tokens", 0));
    CHECK(hash("tokens", 0) != hash("kept", 0));
    for (const auto& round : place.metrics("kept", "west", "round"))
        CHECK(round.at("sent_bytes") == round.at("predicted_bytes"));

    // Before the first exchange; between those of the experts and the router; after both.
    for (int from : {2, 5, 9}) {
        const std::string name = "from" + std::to_string(from);
        place.copy_run("kept", name, from);
        const Outcome result = place.trained(words(name, both));
        CHECK(count(result.err, "at step " + std::to_string(from)) >= 1);
        check_same_run(place, name, "kept", 12, {"west", "east"});
    }
}

TEST_CASE("local steps do not matter to one group that averages") {
    const Workplace place;
    for (const char* local_steps : {"1", "5", "12"})
        place.trained(place.train(kSolo, {"--set", "federation.outer.optimizer=average", "--set",
                                          std::string("name=h") + local_steps, "--set",
                                          std::string("federation.local_steps=") + local_steps}));
    check_same_run(place, "h1", "h12", 12, {"solo"});
    check_same_run(place, "h5", "h12", 12, {"solo"});
}

TEST_CASE("a finished run says so, and goes on when it is made longer") {
    const Workplace place;
    auto words = [&](const std::string& name, int steps) {
        return place.train(kSolo, {"--set", "name=" + name, "--set", "checkpoint.every=5", "--set",
                                   "train.optimizer.schedule=constant", "--set",
                                   "train.steps=" + std::to_string(steps)});
    };
    place.trained(words("kept", 12));
    place.trained(words("longer", 7));
    const auto before = tree(place.run_directory("longer") / "checkpoints");
    CHECK(before.contains("step-00000005/manifest.json"));
    CHECK(before.contains("step-00000007/manifest.json"));
    const Outcome again = place.trained(words("longer", 7));
    CHECK(count(again.err, "done at step 7") == 1);
    CHECK(differing(before, tree(place.run_directory("longer") / "checkpoints")) == Command{});
    CHECK(place.steps("longer", "solo") == one_to(7));

    place.trained(words("longer", 12));
    CHECK(place.steps("longer", "solo") == one_to(12));
    CHECK(place.metrics("longer", "solo", "step")[6].at("loss") ==
          place.metrics("kept", "solo", "step")[6].at("loss"));
    // Step 7 ended a round early, so the weights differ from there; the newest step is complete.
    CHECK(place.saved("longer", 12).size() == place.saved("kept", 12).size());
    CHECK(fs::read_symlink(place.run_directory("longer") / "checkpoints" / "latest") ==
          "step-00000012");
}
