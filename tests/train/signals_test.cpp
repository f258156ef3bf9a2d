// Save and stop when asked, end when asked again or when nobody does.
#include "train/signals.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <thread>
#include <vector>

#include "ops/backend.h"
#include "ops/linear.h"

using namespace fomoe;

namespace {

// From outside, to the process.
void send(int number) { kill(getpid(), number); }

void wait_until_requested(const StopSignals& signals) {
    while (!signals.requested()) usleep(1000);
}

// What waitpid says of a child that runs body() and then exits with 7.
int status_of_child(const std::function<void()>& body) {
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGUSR1, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        body();
        _exit(7);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return status;
}

}  // namespace

TEST_CASE("one signal asks to save and stop and the process lives on") {
    for (int number : {SIGUSR1, SIGTERM, SIGINT}) {
        StopSignals signals;
        CHECK_FALSE(signals.requested());
        send(number);
        wait_until_requested(signals);
    }
}

TEST_CASE("the same request may come twice") {
    const int status = status_of_child([] {
        StopSignals signals;
        for (int number : {SIGUSR1, SIGTERM, SIGTERM, SIGINT, SIGUSR1}) {
            send(number);
            usleep(20000);
        }
        wait_until_requested(signals);
    });
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
}

TEST_CASE("the same signal once more, when it is no duplicate, ends the process") {
    for (int number : {SIGUSR1, SIGTERM, SIGINT}) {
        const int status = status_of_child([&] {
            StopSignals signals(0);
            // Another one is the same request: Slurm sends SIGTERM at the end of the time.
            for (int other : {SIGTERM, SIGINT, SIGUSR1})
                if (other != number) send(other);
            wait_until_requested(signals);
            for (;;) {  // two that nobody has taken yet are one
                send(number);
                usleep(10000);
            }
        });
        REQUIRE(WIFSIGNALED(status));
        CHECK(WTERMSIG(status) == number);
    }
}

TEST_CASE("a request that nobody serves ends the process with the code of one to run again") {
    // From before the grace is known, and from after.
    for (bool early : {true, false}) {
        const int status = status_of_child([&] {
            StopSignals signals;
            if (early) send(SIGTERM);
            signals.set_grace(0.2);
            if (!early) send(SIGTERM);
            for (;;) pause();
        });
        REQUIRE(WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == 75);
    }
}

TEST_CASE("a request that is served waits for nothing") {
    const int status = status_of_child([&] {
        StopSignals signals;
        signals.set_grace(2);
        send(SIGUSR1);
        wait_until_requested(signals);
        signals.served();
        usleep(2500000);
    });
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
}

TEST_CASE("what was there before comes back") {
    const int status = status_of_child([] {
        signal(SIGUSR1, SIG_IGN);
        {
            StopSignals signals;
            send(SIGUSR1);
            wait_until_requested(signals);
        }
        send(SIGUSR1);
        { StopSignals signals; }
        signal(SIGUSR1, SIG_DFL);
    });
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
}

// oneDNN's kernels for a long inner dimension use the stack pointer for memory of the heap.
TEST_CASE("signals in a matmul do no harm") {
    const int status = status_of_child([] {
        StopSignals signals(1e9);
        std::atomic<bool> done{false};
        std::thread sender([&] {
            while (!done) {
                send(SIGUSR1);
                usleep(20);
            }
        });
        const auto backend = make_cpu_backend(1);
        constexpr int64_t kRows = 64, kInner = 2048;
        std::vector<float> x(kRows * kInner, 1.0f), y(kRows * kRows);
        for (int call = 0; call < 300; ++call) {
            backend->run(Linear{.y = view(y.data(), Shape(kRows, kRows)),
                                .x = view(x.data(), Shape(kRows, kInner)),
                                .weight = view(x.data(), Shape(kRows, kInner))});
            std::vector<std::vector<char>> held;
            for (int i = 0; i < 50; ++i) held.emplace_back(100 + 1000 * i);
        }
        done = true;
        sender.join();
        if (y[0] != kInner || !signals.requested()) _exit(1);
    });
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
}
