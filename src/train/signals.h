// A request from outside to save and stop.
#pragma once

namespace fomoe {

// While it lives, SIGUSR1, SIGTERM, SIGINT or SIGHUP (a terminal that closes; not under nohup) asks
// the program to save and stop. Launchers send a signal twice, to the process and to its group,
// within moments; one that comes again later ends the process at once, as without this. And a
// reader of its output that is gone or a limit on the size of files does not end it. At most one at
// a time.
class StopSignals {
public:
    // `moments`: seconds within which a signal that comes again is the same request.
    explicit StopSignals(double moments = 2);
    ~StopSignals();  // restores what was there before
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;

    bool requested() const;
    // From now on a request that waits for longer than this (seconds, from the request on) ends the
    // process at once with Exit::resumable: what was saved before stands.
    void set_grace(double seconds);
    // The request waits no longer.
    void served();
};

}  // namespace fomoe
