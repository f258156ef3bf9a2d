// The handler sets one lock-free flag and steps aside.
#include "train/signals.h"

#include <signal.h>

#include <array>
#include <atomic>

#include "base/error.h"

namespace fomoe {
namespace {

constexpr std::array kStop{SIGUSR1, SIGTERM, SIGINT, SIGHUP};
// A write that fails says so itself.
constexpr std::array kIgnored{SIGPIPE, SIGXFSZ};

// A handler reaches nothing but statics.
std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);
std::array<struct sigaction, kStop.size()> stop_before;
std::array<struct sigaction, kIgnored.size()> ignored_before;
bool installed = false;

void request_stop(int number) {
    stop_requested = true;
    if (number == SIGINT) signal(SIGINT, SIG_DFL);
}

}  // namespace

StopSignals::StopSignals() {
    FOMOE_CHECK(!installed);
    installed = true;
    stop_requested = false;
    struct sigaction action = {};
    action.sa_handler = request_stop;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (int number : kStop) sigaddset(&action.sa_mask, number);
    for (size_t i = 0; i < kStop.size(); ++i) {
        sigaction(kStop[i], &action, &stop_before[i]);
        if (kStop[i] == SIGHUP && stop_before[i].sa_handler == SIG_IGN)
            sigaction(SIGHUP, &stop_before[i], nullptr);
    }
    action.sa_handler = SIG_IGN;
    for (size_t i = 0; i < kIgnored.size(); ++i)
        sigaction(kIgnored[i], &action, &ignored_before[i]);
}

StopSignals::~StopSignals() {
    for (size_t i = 0; i < kStop.size(); ++i) sigaction(kStop[i], &stop_before[i], nullptr);
    for (size_t i = 0; i < kIgnored.size(); ++i)
        sigaction(kIgnored[i], &ignored_before[i], nullptr);
    installed = false;
}

bool StopSignals::requested() const { return stop_requested; }

}  // namespace fomoe
