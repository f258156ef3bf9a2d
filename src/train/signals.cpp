// The thread that takes them.
#include "train/signals.h"

#include <time.h>
#include <unistd.h>

#include <map>
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

double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// As if nothing had been done about the signal.
void die_of(int number) {
    signal(number, SIG_DFL);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, number);
    pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
    raise(number);
}

}  // namespace

StopSignals::StopSignals(double moments) {
    sigemptyset(&waited_);
    for (int number : kStop) {
        struct sigaction before;
        sigaction(number, nullptr, &before);
        if (number != SIGHUP || before.sa_handler != SIG_IGN) sigaddset(&waited_, number);
    }
    pthread_sigmask(SIG_BLOCK, &waited_, &mask_before_);
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    for (size_t i = 0; i < kIgnored.size(); ++i)
        sigaction(kIgnored[i], &ignore, &ignored_before_[i]);
    listener_ = std::thread([this, moments] { listen(moments); });
}

StopSignals::~StopSignals() {
    ending_ = true;
    listener_.join();
    for (size_t i = 0; i < kIgnored.size(); ++i)
        sigaction(kIgnored[i], &ignored_before_[i], nullptr);
    pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
}

void StopSignals::listen(double moments) {
    std::map<int, double> first_seen;  // by signal
    while (!ending_) {
        const timespec tick{0, 100'000'000};
        const int number = sigtimedwait(&waited_, nullptr, &tick);
        if (number > 0) {
            const auto [seen, first] = first_seen.emplace(number, now());
            if (!first && now() - seen->second >= moments) die_of(number);
            if (asked_at_ == 0) asked_at_ = now();
        }
        if (asked_at_ == 0 || grace_ == kForever || now() - asked_at_ < grace_) continue;
        [[maybe_unused]] const auto written =
            write(STDERR_FILENO, kGraceIsOver.data(), kGraceIsOver.size());
        _exit(static_cast<int>(Exit::resumable));
    }
}

}  // namespace fomoe
