// Average and Nesterov momentum.
#include "federation/outer_optimizer.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "config/phases.h"
#include "federation/participants.h"

namespace fomoe {

OuterRule outer_rule(const FederationConfig& config, ParamClass cls, int n_owners) {
    struct Row {
        const OuterConfig& outer;
        bool named;
    };
    const Row rows[] = {{config.shared, config.shared_named},
                        {config.router, config.router_named},
                        {config.expert, config.expert_named}};
    const Row& row = rows[static_cast<int>(cls)];
    const int period = period_of(config, cls);
    const bool averages = n_owners == 1 || period < config.local_steps;
    if (row.outer.optimizer == OuterKind::average || (averages && !row.named))
        return {.kind = OuterKind::average, .keeps_anchor = n_owners > 1};
    const OuterConfig outer = outer_at(row.outer, period, config.local_steps);
    return {.kind = OuterKind::nesterov,
            .lr = static_cast<float>(outer.lr),
            .momentum = static_cast<float>(outer.momentum)};
}

void weighted_average(std::span<const float* const> contributions, std::span<const float> weights,
                      int64_t n, float* average) {
    for (int64_t i = 0; i < n; ++i) average[i] = weights[0] * contributions[0][i];
    for (size_t c = 1; c < contributions.size(); ++c) {
        const float* local = contributions[c];
        const float weight = weights[c];
        for (int64_t i = 0; i < n; ++i) average[i] += weight * local[i];
    }
}

void outer_update(const OuterRule& rule, const OuterUpdate& u, int64_t n) {
    if (rule.kind == OuterKind::average) {
        std::copy_n(u.average, n, u.next_anchor);
        return;
    }
    for (int64_t i = 0; i < n; ++i) {
        const float pseudo_gradient = u.anchor[i] - u.average[i];
        const float momentum = rule.momentum * u.momentum[i] + pseudo_gradient;
        u.next_momentum[i] = momentum;
        u.next_anchor[i] = u.anchor[i] - rule.lr * (rule.momentum * momentum + pseudo_gradient);
    }
}

bool all_finite(const float* x, int64_t n) {
    int bad = 0;
    for (int64_t i = 0; i < n; ++i) bad |= !(std::fabs(x[i]) <= FLT_MAX);
    return bad == 0;
}

}  // namespace fomoe
