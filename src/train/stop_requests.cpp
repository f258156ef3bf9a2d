// Signals and the clock.
#include "train/stop_requests.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "train/signals.h"

namespace fomoe {

std::optional<TimeLimit> time_limit(std::optional<double> max_time) {
    std::optional<TimeLimit> limit;
    if (max_time) limit = {*max_time, "--max-time"};
    constexpr const char* kSlurm = "SLURM_JOB_END_TIME";
    const char* text = std::getenv(kSlurm);
    if (!text) return limit;
    char* rest = nullptr;
    const double end = std::strtod(text, &rest);
    const double now =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    if (rest == text || *rest != '\0' || end <= now) return limit;
    if (!limit || end - now < limit->seconds) limit = {end - now, kSlurm};
    return limit;
}

StopRequests::StopRequests(StopSignals& signals, const CheckpointConfig& config,
                           std::optional<TimeLimit> limit)
    : signalled_([&signals] { return signals.requested(); }),
      signals_(&signals),
      margin_(config.margin),
      limit_(std::move(limit)) {
    signals.set_grace(config.grace);
}

bool StopRequests::near_limit() const {
    if (!limit_) return false;
    const double needed = std::max(margin_, 2 * last_save_ + longest_round_ + longest_step_);
    return clock() > limit_->seconds - std::min(needed, limit_->seconds / 2);
}

bool StopRequests::asked() const { return (signalled_ && signalled_()) || near_limit(); }

std::string StopRequests::why() const {
    if (!near_limit()) return "";
    return fmt::format("the time of {} is over in {:.0f} s", limit_->source,
                       std::max(0.0, limit_->seconds - clock()));
}

void StopRequests::served() {
    if (signals_) signals_->served();
}

}  // namespace fomoe
