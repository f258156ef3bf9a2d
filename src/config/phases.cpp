// Cuts a run at the steps of its schedule and at the end of its warm-up.
#include "config/phases.h"

#include <cmath>

namespace fomoe {

OuterConfig outer_at(const OuterConfig& outer, int period, int local_steps) {
    const double mu = outer.momentum;
    OuterConfig at = outer;
    at.momentum = std::pow(mu, static_cast<double>(period) / local_steps);
    at.lr = outer.lr * ((1 - at.momentum) / (1 - mu));
    return at;
}

std::vector<Phase> phases_of(const Config& config) {
    FederationConfig plain = config.federation;
    plain.schedule.clear();
    plain.replication_warmup = 0;
    std::vector<Phase> phases{{.federation = plain}};
    const auto cut = [&](int64_t step) {
        phases.back().end = step;
        phases.push_back({.begin = step, .federation = plain});
    };
    if (const int64_t rounds = config.federation.replication_warmup; rounds > 0) {
        phases[0].full_replicas = true;
        phases[0].federation.placement = PlacementKind::blocks;
        phases[0].federation.replication = static_cast<int>(config.topology.groups.size());
        cut(rounds * plain.local_steps);
    }
    for (const auto& [step, local_steps] : config.federation.schedule) {
        if (phases.back().begin != step) cut(step);
        FederationConfig& later = phases.back().federation;
        later.local_steps = local_steps;
        for (OuterConfig* outer : {&later.outer, &later.shared, &later.router, &later.expert})
            *outer = outer_at(*outer, local_steps, plain.local_steps);
    }
    return phases;
}

Phase phase_of(const Config& config, int64_t step) {
    for (const Phase& phase : phases_of(config))
        if (step <= phase.end) return phase;
    return {};
}

}  // namespace fomoe
