// The handler sets one lock-free flag and steps aside.
#include "train/signals.h"

#include <signal.h>

#include <array>
#include <atomic>

#include "base/error.h"

namespace fomoe {
namespace {

constexpr std::array kSignals{SIGUSR1, SIGTERM, SIGINT};

// A handler reaches nothing but statics.
std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free);
std::array<struct sigaction, kSignals.size()> previous;
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
    for (int number : kSignals) sigaddset(&action.sa_mask, number);
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &previous[i]);
}

StopSignals::~StopSignals() {
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &previous[i], nullptr);
    installed = false;
}

bool StopSignals::requested() const { return stop_requested; }

}  // namespace fomoe
