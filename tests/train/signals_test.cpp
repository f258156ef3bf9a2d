// Save and stop on the first signal, end on the second.
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

TEST_CASE("a second signal of any kind ends the process") {
    const int status = status_of_child([] {
        StopSignals signals;
        raise(SIGUSR1);
        raise(SIGTERM);
    });
    REQUIRE(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGTERM);
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
