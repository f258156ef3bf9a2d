// Why a run is to save and stop before its end: a signal, or the end of the time that it has.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>

#include "base/timer.h"
#include "config/config.h"

namespace fomoe {

class StopSignals;

// The seconds that a process has from now on.
struct TimeLimit {
    double seconds = 0;
    std::string source;  // "--max-time", "SLURM_JOB_END_TIME"
};

// The nearer of what the command line says (seconds) and the end of the Slurm job, if it says one.
// What is no time in the environment is taken as none.
std::optional<TimeLimit> time_limit(std::optional<double> max_time);

// Those of this rank. A time limit counts as a request some time before it: checkpoint.margin, and
// at least twice the last save, the longest round and the longest step, as measured so far; but not
// in the first half of the time, so that no start is in vain.
class StopRequests {
public:
    StopRequests() = default;  // none
    explicit StopRequests(std::function<bool()> signalled) : signalled_(std::move(signalled)) {}
    // `signals` outlives it.
    StopRequests(StopSignals& signals, const CheckpointConfig& config,
                 std::optional<TimeLimit> limit);

    bool asked() const;
    // "the time of SLURM_JOB_END_TIME is over in 295 s"; empty without a limit that asks.
    std::string why() const;
    // All have come to save: no request waits any longer.
    void served();

    void step_took(double seconds) { longest_step_ = std::max(longest_step_, seconds); }
    void round_took(double seconds) { longest_round_ = std::max(longest_round_, seconds); }
    void save_took(double seconds) { last_save_ = seconds; }

    // For tests: seconds since the start.
    std::function<double()> clock = [timer = Timer()] { return timer.seconds(); };

private:
    bool near_limit() const;

    std::function<bool()> signalled_;
    StopSignals* signals_ = nullptr;
    double margin_ = 0;
    std::optional<TimeLimit> limit_;
    double longest_step_ = 0, longest_round_ = 0, last_save_ = 0;
};

}  // namespace fomoe
