// What may break around a run: each time one message and the exit code of README's table, and a
// last checkpoint from which the run goes on to the bits of one that never stopped.
#include <sys/mount.h>

#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

Command federation(const Workplace& place, const std::string& name, int steps,
                   const Command& more = {}) {
    Command options{"--set", "name=" + name,
                    "--set", "checkpoint.every=5",
                    "--set", "checkpoint.keep=3",
                    "--set", "train.steps=" + std::to_string(steps),
                    "--set", "train.optimizer.schedule=constant"};
    options.insert(options.end(), more.begin(), more.end());
    return place.train(kPair, options);
}

// One that ends when something ends it.
Command endless(const Workplace& place, const std::string& name) {
    return federation(
        place, name, 1000000,
        {"--set", "train.collective_timeout=5", "--set", "federation.exchange_timeout=5"});
}

// It goes on to a step behind all that it has done.
Outcome goes_on(const Workplace& place, const std::string& name) {
    return place.trained(federation(place, name, steps_behind(place, name, {"west", "east"})));
}

void reach(const Workplace& place, Process& process, const std::string& name, int step) {
    const std::string line = "\"event\":\"step\",\"step\":" + std::to_string(step) + ",";
    while (read_text(place.run_directory(name) / "metrics" / "west.jsonl").find(line) ==
           std::string::npos) {
        INFO(process.err());
        REQUIRE(process.running());
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

// A rank that is stopped before it has ever said which process it is cannot be named.
void reach_record(const Workplace& place, Process& process, const std::string& name, int rank) {
    const std::string own = " process " + std::to_string(process_of(place, name, rank)) + " ";
    while (read_text(place.run_directory(name) / "logs" / "ranks").find(own) == std::string::npos) {
        REQUIRE(process.running());
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

// A file system in memory, or a view of a directory that cannot be written.
class Mount {
public:
    Mount(const fs::path& at, const std::string& size) : at_(at) {
        fs::create_directories(at);
        INFO("mounting takes the right to do so");
        REQUIRE(mount("tmpfs", at.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0);
    }
    // Made ready elsewhere: where a file is open for writing, a view cannot be closed to writers.
    explicit Mount(const fs::path& read_only) : at_(read_only) {
        const TemporaryDirectory elsewhere;
        const char* view = elsewhere.path().c_str();
        REQUIRE(mount(at_.c_str(), view, nullptr, MS_BIND, nullptr) == 0);
        REQUIRE(mount(nullptr, view, nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr) == 0);
        REQUIRE(mount(view, at_.c_str(), nullptr, MS_BIND, nullptr) == 0);
        REQUIRE(umount2(view, MNT_DETACH) == 0);
    }
    ~Mount() { umount2(at_.c_str(), MNT_DETACH); }
    Mount(const Mount&) = delete;
    Mount& operator=(const Mount&) = delete;

    void grow(const std::string& size) {
        REQUIRE(mount("tmpfs", at_.c_str(), "tmpfs", MS_REMOUNT, ("size=" + size).c_str()) == 0);
    }

private:
    fs::path at_;
};

}  // namespace

TEST_CASE("a rank that is stopped ends the job, which says which one it was", "[mpi]") {
    const Workplace place;
    for (const bool own_mpirun : {false, true}) {
        const std::string name = own_mpirun ? "mpirun" : "alone";
        const Command words = endless(place, name);
        Process process(own_mpirun ? on_ranks(4, words) : words, place.path());
        reach(place, process, name, 12);
        const int rank = own_mpirun ? 0 : 3;
        reach_record(place, process, name, rank);
        const pid_t stopped = process_of(place, name, rank);
        kill(stopped, SIGSTOP);
        const Outcome result = process.wait();
        INFO(result.err);
        CHECK(result.exit == 5);
        // Between groups it may be the exchange that was not answered.
        CHECK((result.err.find("has not come back for ") != std::string::npos ||
               result.err.find("no message from ") != std::string::npos));
        CHECK_THAT(result.err, Contains("silent: process " + std::to_string(stopped) + " on "));
        CHECK_THAT(result.err, Contains("the last checkpoint stands"));
        const int steps = steps_behind(place, name, {"west", "east"});
        const std::string kept = name + "-kept";
        for (const std::string& run : {name, kept}) place.trained(federation(place, run, steps));
        check_same_run(place, name, kept, steps, {"west", "east"});
    }
}

TEST_CASE("a rank that dies ends the job within seconds", "[mpi]") {
    const Workplace place;
    Process process(on_ranks(4, endless(place, "killed")), place.path());
    reach(place, process, "killed", 12);
    kill(process_of(place, "killed", 2), SIGKILL);
    const Outcome result = process.wait();
    INFO(result.err);
    CHECK(result.exit == 137);
    CHECK_THAT(goes_on(place, "killed").err, Contains("resumed from "));
}

TEST_CASE("a full disk ends the run with its name, and more room lets it go on", "[mpi]") {
    const Workplace place;
    Mount disk(place.path("runs"), "4m");
    const Outcome result = place.run(endless(place, "full"));
    INFO(result.err);
    CHECK(result.exit == 3);
    CHECK_THAT(result.err, Contains("checkpoints/step-") && Contains("No space left on device"));
    disk.grow("200m");
    CHECK_THAT(goes_on(place, "full").err, Contains("resumed from "));
}

TEST_CASE("a directory that cannot be written ends the run, now or at its next checkpoint",
          "[mpi]") {
    const Workplace place;
    const Command words = endless(place, "fixed");
    fs::create_directories(place.path("runs"));
    {
        const Mount fixed(place.path("runs"));
        const Outcome result = place.run(words);
        INFO(result.err);
        CHECK(result.exit == 3);
        CHECK(count(result.err, "Read-only file system") == 1);
        CHECK(count(result.err, "error: ") == 1);
    }
    {
        Process process(words, place.path());
        reach(place, process, "fixed", 7);
        const Mount fixed(place.run_directory("fixed") / "checkpoints");
        const Outcome result = process.wait();
        INFO(result.err);
        CHECK(result.exit == 3);
        CHECK_THAT(result.err, Contains("Read-only file system"));
        CHECK(count(result.err, "error: ") == 1);
    }
    CHECK_THAT(goes_on(place, "fixed").err, Contains("resumed from "));
}
