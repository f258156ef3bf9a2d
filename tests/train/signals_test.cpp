// Save and stop when asked, end when asked again or when nobody does.
#include "train/signals.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>

using namespace fomoe;

namespace {

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
        raise(number);
        CHECK(signals.requested());
    }
}

TEST_CASE("the same request may come twice") {
    const int status = status_of_child([] {
        StopSignals signals;
        for (int number : {SIGUSR1, SIGTERM, SIGTERM, SIGINT, SIGUSR1}) raise(number);
        if (!signals.requested()) _exit(1);
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
                if (other != number) raise(other);
            raise(number);
            if (!signals.requested()) _exit(1);
            raise(number);
        });
        REQUIRE(WIFSIGNALED(status));
        CHECK(WTERMSIG(status) == number);
    }
}

TEST_CASE("a request that nobody serves ends the process with the code of one to run again") {
    const int status = status_of_child([] {
        StopSignals signals;
        signals.set_grace(0.5);
        raise(SIGTERM);
        for (;;) pause();
    });
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 75);
}

TEST_CASE("a request from before the grace was known ends with it, too; one that is served waits") {
    const auto child = [](bool serves) {
        return status_of_child([&] {
            StopSignals signals;
            raise(SIGUSR1);
            signals.set_grace(0.5);
            if (serves) signals.served();
            usleep(1500000);
        });
    };
    CHECK(WEXITSTATUS(child(false)) == 75);
    CHECK(WEXITSTATUS(child(true)) == 7);
}

TEST_CASE("the handlers that were there before come back") {
    const int status = status_of_child([] {
        signal(SIGUSR1, SIG_IGN);
        {
            StopSignals signals;
            raise(SIGUSR1);
        }
        raise(SIGUSR1);
    });
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 7);
}
