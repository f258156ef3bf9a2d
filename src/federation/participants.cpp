// Periods of the classes and the verdict on contributions.
#include "federation/participants.h"

#include <algorithm>

namespace fomoe {

int period_of(const FederationConfig& config, ParamClass cls) {
    const int own[] = {config.shared_steps, config.router_steps, config.expert_steps};
    const int steps = own[static_cast<int>(cls)];
    return steps > 0 ? steps : config.local_steps;
}

bool one_period(const FederationConfig& config) {
    const int shared = period_of(config, ParamClass::shared);
    return shared == period_of(config, ParamClass::router) &&
           shared == period_of(config, ParamClass::expert);
}

Classes classes_due(const FederationConfig& config, int64_t step) {
    Classes due;
    for (size_t i = 0; i < due.size(); ++i)
        due[i] = step % period_of(config, static_cast<ParamClass>(i)) == 0;
    return due;
}

Moments moments_due(const FederationConfig& config, int64_t step) {
    Moments due = kNoMoments;
    if (config.inner_state != InnerState::average) return due;
    const int own[] = {config.first_moment_steps, config.second_moment_steps};
    for (int i = 0; i < kMoments; ++i)
        due[i] = step % (own[i] > 0 ? own[i] : config.local_steps) == 0;
    return due;
}

bool Participants::step(const OwnedSpan& span) const {
    return has(span.cls) &&
           std::ranges::any_of(span.owners, [&](int group) { return groups[group]; });
}

std::vector<bool> contributors(std::span<const Offer> offers, double reject_above) {
    std::vector<bool> accepted;
    std::vector<double> norms;
    for (const Offer& offer : offers) {
        accepted.push_back(offer.finite);
        if (offer.finite && offer.norm > 0) norms.push_back(offer.norm);
    }
    if (reject_above == 0 || norms.empty()) return accepted;
    std::ranges::sort(norms);
    const double limit = reject_above * norms[(norms.size() - 1) / 2];
    for (size_t group = 0; group < offers.size(); ++group)
        accepted[group] = accepted[group] && offers[group].norm <= limit;
    return accepted;
}

}  // namespace fomoe
