// Random federations with a random policy, and what goes wrong in them.
#pragma once

#include "config/phases.h"
#include "federation/tiny_federation.h"
#include "support/random_federation.h"

namespace fomoe {

// What goes wrong in one group just before a round.
enum class Trouble { none, weight, moment, outlier };
struct Mishap {
    Trouble trouble = Trouble::none;
    int group = 0;
    std::string name;  // of a parameter with several owners, this group one of them
};

struct Trial {
    uint64_t key;
    Config run;
    TinyConfig tiny;  // of the first phase
    int64_t steps = 0, resume_after = 0;
    bool proxy = false;

    bool averages() const { return run.federation.inner_state == InnerState::average; }
    Phase phase(int64_t step) const { return phase_of(run, step); }
    Classes due(int64_t step) const {
        const Phase phase = this->phase(step);
        return step == steps ? kAllClasses : classes_due(phase.federation, step - phase.begin);
    }
    Moments moments(int64_t step) const {
        if (!averages()) return kNoMoments;
        const Phase phase = this->phase(step);
        return step == steps ? kAllMoments : moments_due(phase.federation, step - phase.begin);
    }
    Mishap mishap(int64_t step) const {
        const auto draw = [&](int64_t i, uint64_t n) {
            return random_bits(random_key(100 * key + step, "mishap"), i) % n;
        };
        const Mishap mishap{.trouble = static_cast<Trouble>(draw(0, 6) % 4),
                            .group = static_cast<int>(draw(1, tiny.topology.groups.size())),
                            .name = {}};
        std::vector<std::string> names;
        for (const Parameter& p : tiny.parameters())
            if (p.owners.size() > 1 && std::ranges::binary_search(p.owners, mishap.group))
                names.push_back(p.name);
        if (names.empty() || (mishap.trouble == Trouble::moment && !averages())) return {};
        return {mishap.trouble, mishap.group, names[draw(2, names.size())]};
    }
};

inline Trial make_trial(uint64_t key) {
    const RandomFederation random = random_federation(key, kAllPlacements[key % 3], 6);
    uint64_t draws = 0;
    const auto draw = [&](auto... options) {
        const std::vector all{options...};
        return all[random_bits(random_key(key, "policy"), draws++) % all.size()];
    };
    Trial trial{.key = key, .run = {}, .tiny = tiny_config({}, random.federation.replication)};
    TinyConfig& tiny = trial.tiny;
    tiny.topology = random.topology;
    tiny.model.n_layers = 2;
    tiny.model.moe.n_experts = random.n_experts;
    tiny.model.moe.top_k = 1;
    tiny.model.moe.aux_scope = draw(AuxScope::group, AuxScope::federation);
    tiny.model.moe.router = draw(RouterKind::softmax, RouterKind::sigmoid);

    FederationConfig& f = tiny.federation;
    f.placement = random.federation.placement;
    f.local_steps = 2;
    for (OuterConfig* outer : {&f.shared, &f.router, &f.expert})
        *outer = {.optimizer = draw(OuterKind::average, OuterKind::nesterov),
                  .lr = draw(0.5, 0.7, 1.0),
                  .momentum = draw(0.5, 0.9)};
    f.shared_named = draw(false, true);
    f.router_named = draw(false, true);
    f.expert_named = draw(false, true);
    f.weights = draw(WeightsKind::uniform, WeightsKind::tokens);
    f.router_average = draw(RouterAverage::all, RouterAverage::owners);
    f.inner_state = draw(InnerState::keep, InnerState::average, InnerState::average);
    f.reject_above = draw(0.0, 6.0);
    f.refresh = draw(1, 2, 3);
    trial.proxy = draw(false, true);
    if (draw(false, true)) {
        f.schedule = draw(std::map<int64_t, int>{{4, 1}}, std::map<int64_t, int>{{2, 1}, {4, 3}});
    } else {
        for (int* period : {&f.shared_steps, &f.router_steps, &f.expert_steps})
            *period = draw(0, 0, 1, 2, 4);
        f.first_moment_steps = draw(0, 4);
        f.second_moment_steps = draw(0, 4);
    }
    trial.steps = draw(9, 10);
    trial.resume_after = draw(0, 1, 3, 4, 6);

    trial.run.model = tiny.model;
    trial.run.topology = tiny.topology;
    trial.run.federation = f;
    f = trial.phase(1).federation;
    return trial;
}

}  // namespace fomoe
