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

// Waits until the program has said this, or is done.
bool has_said(Process& process, const std::string& text) {
    while (process.err().find(text) == std::string::npos) {
        if (!process.running()) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

// The step of the newest line that a group wrote.
bool reached(const Workplace& place, Process& process, const std::string& name, int step) {
    while (true) {
        const std::string text = read_text(place.run_directory(name) / "metrics" / "west.jsonl");
        if (text.find("\"event\":\"step\",\"step\":" + std::to_string(step) + ",") !=
            std::string::npos)
            return true;
        if (!process.running()) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
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

}  // namespace

// FOMOE_TEST_KILLS: how many, if not a few.
TEST_CASE("killed at any moment and resumed is never stopped, bit for bit", "[kill]") {
    const Workplace place;
    const char* asked = std::getenv("FOMOE_TEST_KILLS");
    const int wanted = asked ? std::atoi(asked) : 6, steps = 100 + 20 * wanted;
    auto words = [&](const std::string& name) {
        Command words = federation(place, name, steps);
        words.insert(words.end(), {"--set", "federation.evaluate_every=1"});
        return words;
    };
    place.trained(words("kept"));

    const unsigned seed = std::random_device()();
    CAPTURE(seed);
    std::mt19937 random(seed);
    auto below = [&](int n) { return static_cast<int>(random() % n); };
    std::array<int, kMoments> kills{};
    for (int n = 0, at = 0; n < wanted; ++n) {
        const Moment moment{n % kMoments};
        // Directly under mpirun in every other life, so that ranks can be killed one by one.
        Process process(n % 2 ? on_ranks(4, words("killed")) : words("killed"), place.path());
        at += 2 + below(30);
        if (!reached(place, process, "killed", at) ||
            !await_moment(process, moment, place.run_directory("killed")))
            break;
        std::this_thread::sleep_for(
            std::chrono::microseconds(below(moment == Moment::training ? 30000 : 3000)));
        if (!process.running()) break;
        if (moment == Moment::one_process) {
            // The others must end as well.
            const std::vector<pid_t> pids = process.descendants();
            REQUIRE(!pids.empty());
            kill(pids[below(static_cast<int>(pids.size()))], SIGKILL);
            CHECK(process.wait(60).exit != 0);
        } else {
            process.kill_all();
        }
        ++kills[static_cast<int>(moment)];
    }
    const int all = std::accumulate(kills.begin(), kills.end(), 0);
    CHECK(all > wanted / 2);
    place.trained(words("killed"));
    check_same_run(place, "killed", "kept", steps, {"west", "east"});
    for (const auto& [name, bytes] : tree(place.run_directory("killed") / "checkpoints"))
        CHECK(name.find(".tmp") == std::string::npos);
    std::printf(
        "%d SIGKILLs in %d steps on 4 ranks: %d in training, %d of one process alone, %d "
        "while saving, %d in rounds, %d in evaluations\n",
        all, steps, kills[0], kills[1], kills[2], kills[3], kills[4]);
}

namespace {

// The process of a rank, which its log names.
pid_t process_of(const Workplace& place, const std::string& name, int rank) {
    const std::string log =
        read_text(place.run_directory(name) / "logs" / ("rank-" + std::to_string(rank) + ".log"));
    const size_t at = log.rfind(", process ");
    REQUIRE(at != std::string::npos);
    return std::atoi(log.c_str() + at + std::string(", process ").size());
}

// Step and pending round of each group in the newest checkpoint.
struct Stood {
    int64_t step;
    bool round_pending;
};
std::map<std::string, Stood> stood(const Workplace& place, const std::string& name) {
    const fs::path newest = place.run_directory(name) / "checkpoints" / "latest";
    std::map<std::string, Stood> groups;
    for (const Json& group : Json::parse(read_text(newest / "manifest.json")).at("groups"))
        groups[group.at("name")] = {group.at("step"), group.at("round_pending")};
    return groups;
}

void check_stopped(const Workplace& place, const std::string& name, const Outcome& result) {
    INFO(result.err);
    REQUIRE(result.exit == 75);
    CHECK(count(result.err, "run again to go on") == 1);
    for (const auto& [group, where] : stood(place, name)) {
        const auto ends = place.metrics(name, group, "end");
        REQUIRE(!ends.empty());
        CHECK(ends.back().at("reason") == "stopped");
        CHECK(ends.back().at("step") == where.step);
        CHECK(place.steps(name, group) == one_to(static_cast<int>(where.step)));
    }
}

}  // namespace

TEST_CASE("asked to stop, every group saves at its next step and goes on later", "[kill]") {
    const Workplace place;
    const int steps = 240;
    // Rounds that are long, and a step number that is saved twice: once where groups stand apart.
    auto words = [&](const std::string& name) {
        return place.train(
            kPair, {"--set", "name=" + name, "--set", "checkpoint.every=20", "--set",
                    "train.steps=" + std::to_string(steps), "--set", "federation.local_steps=80"});
    };
    place.trained(words("kept"));
    struct Request {
        int signal;
        int rank;  // that gets it; -1: mpirun, -2: the program that has started the ranks
    };
    int64_t before = 0;
    for (const Request& request : {Request{SIGUSR1, -1}, Request{SIGTERM, -2}, Request{SIGUSR1, 0},
                                   Request{SIGTERM, 1}, Request{SIGINT, 3}}) {
        Process process(request.rank == -1 ? on_ranks(4, words("stopped")) : words("stopped"),
                        place.path());
        REQUIRE(has_said(process, "step " + std::to_string(before + 2) + "/"));
        kill(request.rank < 0 ? process.pid() : process_of(place, "stopped", request.rank),
             request.signal);
        check_stopped(place, "stopped", process.wait(60));
        for (const auto& [group, where] : stood(place, "stopped")) {
            CHECK(where.step > before);
            CHECK(where.round_pending == (where.step % 80 == 0));
        }
        before = stood(place, "stopped").at("west").step;
    }
    place.trained(words("stopped"));
    check_same_run(place, "stopped", "kept", steps, {"west", "east"});
}

TEST_CASE("a group that waits for a slower one stops, with its round still before it", "[kill]") {
    const Workplace place;
    const int local = 60, steps = 4 * local;
    auto words = [&](const std::string& name) {
        return place.train(kPair, {"--set", "name=" + name, "--set", "checkpoint.every=240",
                                   "--set", "train.steps=" + std::to_string(steps), "--set",
                                   "federation.local_steps=" + std::to_string(local), "--set",
                                   "federation.evaluate_every=1"});
    };
    place.trained(words("kept"));
    // Of the group that waits and of the one that is waited for, first rank and another.
    int round = 0;
    for (int asked : {0, 1, 3}) {
        Process process(words("slow"), place.path());
        REQUIRE(reached(place, process, "slow", local * round + 2));
        for (int rank : {2, 3}) kill(process_of(place, "slow", rank), SIGSTOP);
        REQUIRE(reached(place, process, "slow", local * (round + 1)));
        kill(process_of(place, "slow", asked), SIGUSR1);
        for (int rank : {2, 3}) kill(process_of(place, "slow", rank), SIGCONT);
        check_stopped(place, "slow", process.wait(60));
        const auto groups = stood(place, "slow");
        CHECK(groups.at("west").step == local * (round + 1));
        CHECK(groups.at("west").round_pending);
        CHECK(groups.at("east").step <= local * (round + 1));
        CHECK(place.metrics("slow", "west", "round").size() == static_cast<size_t>(round));
        if (asked == 0) {
            // Killed behind the round that was pending: its metrics are not there twice.
            Process again(words("slow"), place.path());
            REQUIRE(reached(place, again, "slow", local * round + 10));
            again.kill_all();
        }
        ++round;
        if (asked == 3) break;
        // On to the next round: asked as soon as the pending one is over.
        Process on(words("slow"), place.path());
        REQUIRE(reached(place, on, "slow", local * round + 1));
        kill(on.pid(), SIGUSR1);
        check_stopped(place, "slow", on.wait(60));
    }
    place.trained(words("slow"));
    check_same_run(place, "slow", "kept", steps, {"west", "east"});
}

TEST_CASE("a run stops by itself before its time is over", "[kill]") {
    const Workplace place;
    auto words = [&](const std::string& name, const Command& more = {}) {
        Command words =
            place.train(kPair, {"--set", "name=" + name, "--set", "train.steps=20000", "--set",
                                "federation.local_steps=4000", "--set", "checkpoint.margin=100"});
        words.insert(words.end(), more.begin(), more.end());
        return words;
    };
    Process process(words("limited", {"--max-time", "12s"}), place.path());
    const Outcome result = process.wait(60);
    check_stopped(place, "limited", result);
    CHECK(count(result.err, "the time of --max-time is over in ") == 1);
    CHECK(stood(place, "limited").at("west").step < 20000);

    const int64_t now = std::chrono::duration_cast<std::chrono::seconds>(
                            std::chrono::system_clock::now().time_since_epoch())
                            .count();
    const Outcome slurm =
        place.run(words("limited"), {{"SLURM_JOB_END_TIME", std::to_string(now + 12)}});
    check_stopped(place, "limited", slurm);
    CHECK(count(slurm.err, "the time of SLURM_JOB_END_TIME is over in ") == 1);

    for (const char* bad : {"4 hours", "-3", "0", "soon"}) {
        const Outcome refused = place.run(words("limited", {"--max-time", bad}));
        CHECK(refused.exit == 2);
        CHECK(count(refused.err, "takes a time such as 4h") == 1);
    }
}

TEST_CASE("asked to stop before the first step, a run ends with nothing begun", "[kill]") {
    const Workplace place;
    const Command words = place.train(kPair, {"--set", "name=early"});
    // Signals are taken before MPI starts.
    Process process(on_ranks(4, words), place.path());
    const auto ranks = [&] {
        std::vector<pid_t> pids;
        for (const pid_t pid : process.descendants())
            if (read_text("/proc/" + std::to_string(pid) + "/comm") == "fomoe-train\n")
                pids.push_back(pid);
        return pids;
    };
    const auto takes = [](pid_t pid) {
        const std::string status = read_text("/proc/" + std::to_string(pid) + "/status");
        const size_t at = status.find("SigBlk:");
        return at != std::string::npos &&
               (std::stoull(status.substr(at + 7), nullptr, 16) >> (SIGUSR1 - 1) & 1);
    };
    while (ranks().empty() || !takes(ranks()[0])) REQUIRE(process.running());
    kill(ranks()[0], SIGUSR1);
    const Outcome result = process.wait(60);
    INFO(result.err);
    CHECK(result.exit == 75);
    place.trained(words);
    CHECK(place.steps("early", "west") == one_to(12));
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

TEST_CASE("one group alone stops at its next step", "[kill]") {
    const Workplace place;
    auto words = [&](const std::string& name) {
        return place.train(kSolo, {"--set", "name=" + name, "--set", "train.steps=4000", "--set",
                                   "federation.local_steps=4000"});
    };
    place.trained(words("kept"));
    Process process(words("stopped"), place.path());
    REQUIRE(has_said(process, "step 5/"));
    kill(process.pid(), SIGTERM);
    const Outcome result = process.wait(60);
    INFO(result.err);
    REQUIRE(result.exit == 75);
    CHECK(place.metrics("stopped", "solo", "end").back().at("step") < 4000);
    place.trained(words("stopped"));
    check_same_run(place, "stopped", "kept", 4000, {"solo"});
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
