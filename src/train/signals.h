// A request from outside to save and stop.
#pragma once

#include <signal.h>

#include <array>
#include <atomic>
#include <thread>

namespace fomoe {

// While it lives, SIGUSR1, SIGTERM, SIGINT or SIGHUP (a terminal that closes; not under nohup) asks
// the program to save and stop. Launchers send a signal twice, to the process and to its group,
// within moments; one that comes again later ends the process at once, as without this. And a
// reader of its output that is gone or a limit on the size of files does not end it.
//
// A thread of its own takes the signals: matmuls of oneDNN move the stack pointer into the heap,
// where a handler would write over what others hold. So it must be made before any other thread.
class StopSignals {
public:
    // `moments`: seconds within which a signal that comes again is the same request.
    explicit StopSignals(double moments = 2);
    ~StopSignals();  // restores what was there before
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;

    bool requested() const { return asked_at_ > 0; }
    // From now on a request that waits for longer than this (seconds, from the request on) ends the
    // process at once with Exit::resumable: what was saved before stands.
    void set_grace(double seconds) { grace_ = seconds; }
    // The request waits no longer.
    void served() { grace_ = kForever; }

private:
    static constexpr double kForever = 0;

    void listen(double moments);

    sigset_t waited_, mask_before_;
    std::array<struct sigaction, 2> ignored_before_;
    std::atomic<double> asked_at_{0}, grace_{kForever};
    std::atomic<bool> ending_{false};
    std::thread listener_;
};

}  // namespace fomoe
