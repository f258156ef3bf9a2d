// How long calls among ranks may take, by what the run is at.
#pragma once

#include "config/config.h"

namespace fomoe {

// Seconds. A round has its own limit for what goes between groups, which the ranks of a group wait
// for together; whatever all groups do together waits for the last of them to come.
struct CallLimits {
    double step, round, other;

    explicit CallLimits(const Config& config)
        : step(config.train.collective_timeout),
          round(2 * config.federation.exchange_timeout + step),
          other(round + 5 * step) {}
};

}  // namespace fomoe
