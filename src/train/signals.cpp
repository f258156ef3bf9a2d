// The handler sets lock-free flags and steps aside.
#include "train/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <string_view>

#include "base/error.h"

namespace fomoe {
namespace {

constexpr std::array kStop{SIGUSR1, SIGTERM, SIGINT, SIGHUP};
// A write that fails says so itself.
constexpr std::array kIgnored{SIGPIPE, SIGXFSZ};
constexpr std::string_view kGraceIsOver =
    "error: asked to stop, but not all ranks came to save within checkpoint.grace; the last "
    "checkpoint stands, run again to go on from it\n";

// A handler reaches nothing but statics.
std::atomic<bool> stop_requested{false};
std::atomic<unsigned> grace{0};  // whole seconds, 0: for ever
std::atomic<double> moments_of_one_request{0};
std::array<std::atomic<double>, kStop.size()> first_seen;  // by signal; 0: not yet
static_assert(std::atomic<bool>::is_always_lock_free);
static_assert(std::atomic<double>::is_always_lock_free);
std::array<struct sigaction, kStop.size()> stop_before;
std::array<struct sigaction, kIgnored.size()> ignored_before;
struct sigaction alarm_before;
bool installed = false;

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void request_stop(int number) {
    const size_t i = std::find(kStop.begin(), kStop.end(), number) - kStop.begin();
    if (first_seen[i] == 0) {
        first_seen[i] = now();
    } else if (now() - first_seen[i] >= moments_of_one_request) {
        // It comes when the handler is left.
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (!stop_requested.exchange(true)) alarm(grace);
}

void end_at_once(int) {
    [[maybe_unused]] const auto written =
        write(STDERR_FILENO, kGraceIsOver.data(), kGraceIsOver.size());
    _exit(static_cast<int>(Exit::resumable));
}

}  // namespace

StopSignals::StopSignals(double moments) {
    FOMOE_CHECK(!installed);
    installed = true;
    stop_requested = false;
    grace = 0;
    moments_of_one_request = moments;
    for (std::atomic<double>& time : first_seen) time = 0;
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
    action.sa_handler = end_at_once;
    sigaction(SIGALRM, &action, &alarm_before);
    action.sa_handler = SIG_IGN;
    for (size_t i = 0; i < kIgnored.size(); ++i)
        sigaction(kIgnored[i], &action, &ignored_before[i]);
}

StopSignals::~StopSignals() {
    alarm(0);
    sigaction(SIGALRM, &alarm_before, nullptr);
    for (size_t i = 0; i < kStop.size(); ++i) sigaction(kStop[i], &stop_before[i], nullptr);
    for (size_t i = 0; i < kIgnored.size(); ++i)
        sigaction(kIgnored[i], &ignored_before[i], nullptr);
    installed = false;
}

bool StopSignals::requested() const { return stop_requested; }

void StopSignals::set_grace(double seconds) {
    grace = static_cast<unsigned>(std::ceil(std::min(seconds, 1e9)));
    if (stop_requested) alarm(grace);
}

void StopSignals::served() {
    grace = 0;
    alarm(0);
}

}  // namespace fomoe
