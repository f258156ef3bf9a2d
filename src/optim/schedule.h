// The learning rate of a step: linear warm-up, then the configured decay. Pure.
#pragma once

#include <algorithm>
#include <cmath>

#include "config/config.h"

namespace fomoe {

// Step counts from 1 to `steps`. The rate reaches lr at step `warmup` and min_lr at the last step.
inline double learning_rate(const OptimizerConfig& config, int64_t step, int64_t steps) {
    if (step < config.warmup) return config.lr * static_cast<double>(step) / config.warmup;
    if (config.schedule == LrSchedule::constant) return config.lr;
    const double length = static_cast<double>(std::max<int64_t>(1, steps - config.warmup));
    const double done = std::min(1.0, static_cast<double>(step - config.warmup) / length);
    const double share = config.schedule == LrSchedule::linear
                             ? 1.0 - done
                             : 0.5 * (1.0 + std::cos(3.141592653589793 * done));
    return config.min_lr + (config.lr - config.min_lr) * share;
}

}  // namespace fomoe
