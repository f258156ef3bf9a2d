// A request from outside to save and stop.
#pragma once

namespace fomoe {

// While it lives, SIGUSR1, SIGTERM, SIGINT or SIGHUP (a terminal that closes; not under nohup) asks
// the program to save and stop. Launchers send the first two twice, to the process and to its
// group, so only a second SIGINT ends the process at once, as without it. And a reader of its
// output that is gone or a limit on the size of files does not end it. At most one at a time.
class StopSignals {
public:
    StopSignals();
    ~StopSignals();  // restores what was there before
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;

    bool requested() const;
};

}  // namespace fomoe
