// Asked to stop, by signals and by limits of time, and started again.
#include <optional>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

// Step and pending round of each group in the newest checkpoint.
struct Stood {
    int64_t step;
    bool round_pending;
};
std::map<std::string, Stood> stood(const Workplace& place, const std::string& name) {
    const fs::path newest = place.run_directory(name) / "checkpoints" / "latest";
    std::map<std::string, Stood> groups;
    const Json manifest = Json::parse(read_text(newest / "manifest.json"));
    for (const Json& group : manifest.at("groups"))
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
    // Rounds that are long, and a step number that is saved twice: once where groups stand apart.
    auto words = [&](const std::string& name, int steps) {
        return place.train(
            kPair, {"--set", "name=" + name, "--set", "checkpoint.every=20", "--set",
                    "train.steps=" + std::to_string(steps), "--set", "federation.local_steps=80",
                    "--set", "train.optimizer.schedule=constant"});
    };
    struct Request {
        int signal;
        int rank;  // that gets it; -1: mpirun, -2: the program that has started the ranks
    };
    std::map<std::string, Stood> before{{"west", {}}, {"east", {}}};
    for (const Request& request : {Request{SIGUSR1, -1}, Request{SIGTERM, -2}, Request{SIGUSR1, 0},
                                   Request{SIGTERM, 1}, Request{SIGINT, 3}}) {
        const Command endless = words("stopped", 1000000);
        Process process(request.rank == -1 ? on_ranks(4, endless) : endless, place.path());
        REQUIRE(has_said(process, "step " + std::to_string(before["west"].step + 2) + "/"));
        kill(request.rank < 0 ? process.pid() : process_of(place, "stopped", request.rank),
             request.signal);
        check_stopped(place, "stopped", process.wait());
        for (const auto& [group, where] : stood(place, "stopped")) {
            CHECK(where.step >= before[group].step);
            CHECK(where.round_pending == (where.step % 80 == 0));
        }
        const int64_t said = before["west"].step + 2;
        before = stood(place, "stopped");
        CHECK(before["west"].step >= said);
    }
    const int steps = steps_behind(place, "stopped", {"west", "east"});
    for (const char* name : {"stopped", "kept"}) place.trained(words(name, steps));
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
    const auto at = [](int step) { return "step " + std::to_string(step) + "/"; };
    // Of the group that waits and of the one that is waited for, first rank and another.
    int round = 0;
    for (int asked : {0, 1, 3}) {
        const int end = local * (round + 1);
        std::optional<Process> process;
        for (bool early = false; !early;) {
            process.emplace(words("slow"), place.path());
            REQUIRE(has_said(*process, at(end - local + 2)));
            for (int rank : {2, 3}) kill(process_of(place, "slow", rank), SIGSTOP);
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            const std::vector<int> steps_of_east = place.steps("slow", "east");
            early = steps_of_east.empty() || steps_of_east.back() < end - 10;
            if (!early) process->kill_all();
        }
        REQUIRE(has_said(*process, at(end)));
        kill(process_of(place, "slow", asked), SIGUSR1);
        // The groups hear of it before the slow one comes to its round.
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        for (int rank : {2, 3}) kill(process_of(place, "slow", rank), SIGCONT);
        check_stopped(place, "slow", process->wait());
        const auto groups = stood(place, "slow");
        CHECK(groups.at("west").step == end);
        CHECK(groups.at("west").round_pending);
        CHECK(groups.at("east").step <= end);
        CHECK(place.metrics("slow", "west", "round").size() == static_cast<size_t>(round));
        if (asked == 0) {
            // Killed behind the round that was pending: its metrics are not there twice.
            Process again(words("slow"), place.path());
            REQUIRE(has_said(again, at(end + 5)));
            again.kill_all();
        }
        ++round;
    }
    place.trained(words("slow"));
    check_same_run(place, "slow", "kept", steps, {"west", "east"});
}

TEST_CASE("an evaluation is given up when a run is asked to stop", "[kill]") {
    const Workplace place;
    const int steps = 48;
    auto words = [&](const std::string& name) {
        return place.train(
            kPair, {"--set", "name=" + name, "--set", "checkpoint.every=0", "--set",
                    "train.steps=" + std::to_string(steps), "--set", "federation.evaluate_every=1",
                    "--set", "data.valid_sequences=1000", "--set", "train.micro_batch=1"});
    };
    place.trained(words("kept"));
    const auto n = [&](const std::string& event) {
        return place.metrics("cut", "west", event).size();
    };
    // A rank that is held up right behind a round holds up the evaluation.
    int left_out = 0;
    for (size_t rounds = 0; rounds < 11 && left_out == 0; rounds = n("round")) {
        Process process(words("cut"), place.path());
        while (n("round") == rounds) REQUIRE(process.running());
        const pid_t held = process_of(place, "cut", 1);
        kill(held, SIGSTOP);
        kill(process_of(place, "cut", 3), SIGUSR1);
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        kill(held, SIGCONT);
        const Outcome result = process.wait();
        check_stopped(place, "cut", result);
        left_out = count(result.err, "is left out: the run was asked to stop");
        CHECK(n("eval") == n("round") - left_out);
    }
    CHECK(left_out == 1);
    place.trained(words("cut"));
    check_same_run(place, "cut", "kept", steps, {"west", "east"});
}

TEST_CASE("a second Ctrl-C does not wait for a rank that hangs, nor does the grace", "[kill]") {
    const Workplace place;
    for (bool again : {true, false}) {
        const Command words = place.train(
            kPair, {"--set", "train.steps=1000000", "--set", again ? "name=again" : "name=grace",
                    "--set", again ? "checkpoint.grace=600" : "checkpoint.grace=3"});
        Process process(words, place.path());
        REQUIRE(has_said(process, "step 3/"));
        kill(process_of(place, again ? "again" : "grace", 3), SIGSTOP);
        kill(process.pid(), SIGINT);
        if (again) {
            // Within two seconds it would be the same request, which launchers send twice.
            std::this_thread::sleep_for(std::chrono::seconds(4));
            REQUIRE(process.running());
            kill(process.pid(), SIGINT);
        }
        const Outcome result = process.wait();
        INFO(result.err);
        CHECK(result.exit != 0);
        CHECK((result.exit == 75) == !again);
        CHECK((count(result.err, "checkpoint.grace") > 0) == !again);
    }
}

TEST_CASE("a run stops by itself before its time is over", "[kill]") {
    const Workplace place;
    auto words = [&](const std::string& name, const Command& more = {}) {
        Command words =
            place.train(kPair, {"--set", "name=" + name, "--set", "train.steps=1000000", "--set",
                                "federation.local_steps=100000", "--set", "checkpoint.margin=100"});
        words.insert(words.end(), more.begin(), more.end());
        return words;
    };
    // The margin begins at half of the time.
    Process process(words("limited", {"--max-time", "30s"}), place.path());
    const Outcome result = process.wait();
    check_stopped(place, "limited", result);
    CHECK(count(result.err, "the time of --max-time is over in ") == 1);

    for (const char* bad : {"4 hours", "-3", "0", "soon"}) {
        const Outcome refused = place.run(words("limited", {"--max-time", bad}));
        CHECK(refused.exit == 2);
        CHECK(count(refused.err, "takes a time such as 4h") == 1);
    }
}

TEST_CASE("asked to stop before the first step, a run ends with nothing begun", "[kill]") {
    const Workplace place;
    const auto words = [&](int steps) {
        return place.train(
            kPair, {"--set", "name=early", "--set", "train.steps=" + std::to_string(steps)});
    };
    // Signals are taken before MPI starts.
    Process process(on_ranks(4, words(1000000)), place.path());
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
    const Outcome result = process.wait();
    INFO(result.err);
    CHECK(result.exit == 75);
    place.trained(words(12));
    CHECK(place.steps("early", "west") == one_to(12));
}

TEST_CASE("one group alone stops at its next step", "[kill]") {
    const Workplace place;
    auto words = [&](const std::string& name, int steps) {
        return place.train(
            kSolo,
            {"--set", "name=" + name, "--set", "train.steps=" + std::to_string(steps), "--set",
             "federation.local_steps=1000000", "--set", "train.optimizer.schedule=constant"});
    };
    Process process(words("stopped", 1000000), place.path());
    REQUIRE(has_said(process, "step 5/"));
    kill(process.pid(), SIGTERM);
    const Outcome result = process.wait();
    INFO(result.err);
    REQUIRE(result.exit == 75);
    const int steps = steps_behind(place, "stopped", {"solo"});
    for (const char* name : {"stopped", "kept"}) place.trained(words(name, steps));
    check_same_run(place, "stopped", "kept", steps, {"solo"});
}
