// Requests to stop: by signals, and by a limit of time that comes nearer.
#include "train/stop_requests.h"

#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>

#include "train/signals.h"

using namespace fomoe;

namespace {

int64_t unix_seconds() {
    return std::chrono::duration_cast<std::chrono::seconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
}

struct SlurmEnd {
    explicit SlurmEnd(const std::string& text) { setenv("SLURM_JOB_END_TIME", text.c_str(), 1); }
    ~SlurmEnd() { unsetenv("SLURM_JOB_END_TIME"); }
};

}  // namespace

TEST_CASE("without signals and limits nobody asks") {
    StopRequests none;
    CHECK_FALSE(none.asked());
    CHECK(none.why().empty());
}

TEST_CASE("a signal asks, and is no matter of time") {
    StopSignals signals;
    StopRequests stop(signals, {}, {});
    CHECK_FALSE(stop.asked());
    kill(getpid(), SIGUSR1);
    while (!signals.requested()) usleep(1000);
    CHECK(stop.asked());
    CHECK(stop.why().empty());
    stop.served();
}

TEST_CASE("the limit asks the margin before its end") {
    StopSignals signals;
    double now = 0;
    StopRequests stop(signals, {.margin = 100}, TimeLimit{1000, "--max-time"});
    stop.clock = [&] { return now; };
    for (double early : {0.0, 899.0}) {
        now = early;
        CHECK_FALSE(stop.asked());
    }
    now = 901;
    CHECK(stop.asked());
    CHECK(stop.why() == "the time of --max-time is over in 99 s");
}

TEST_CASE("what a stop takes, as measured, widens the margin, and half of the time is work") {
    StopSignals signals;
    double now = 0;
    StopRequests stop(signals, {.margin = 100}, TimeLimit{1000, "--max-time"});
    stop.clock = [&] { return now; };
    const auto asks_at = [&](double time) {
        now = time;
        return stop.asked();
    };
    stop.save_took(70);
    stop.round_took(20);
    stop.round_took(5);
    stop.step_took(10);
    CHECK_FALSE(asks_at(829));
    CHECK(asks_at(831));
    // The last save counts, not the longest.
    stop.save_took(10);
    CHECK_FALSE(asks_at(899));
    CHECK(asks_at(901));
    stop.round_took(4000);
    CHECK_FALSE(asks_at(499));
    CHECK(asks_at(501));
}

TEST_CASE("the end of a Slurm job and --max-time: the nearer one") {
    CHECK_FALSE(time_limit({}));
    CHECK(time_limit(60)->source == "--max-time");
    {
        const SlurmEnd end(std::to_string(unix_seconds() + 1000));
        CHECK(time_limit({})->source == "SLURM_JOB_END_TIME");
        CHECK(time_limit({})->seconds == Approx(1000).margin(5));
        CHECK(time_limit(2000)->source == "SLURM_JOB_END_TIME");
        CHECK(time_limit(60)->source == "--max-time");
        CHECK(time_limit(60)->seconds == 60);
    }
    for (const char* no_time : {"", "tomorrow", "0", "12x", "-5"}) {
        const SlurmEnd end(no_time);
        CHECK_FALSE(time_limit({}));
    }
}
