// The keys of federation and calibration.
#include "config/key_makers.h"

namespace fomoe {
namespace {

void add_outer_keys(Keys& keys, const std::string& section,
                    std::function<OuterConfig*(Config&)> outer) {
    keys.push_back(choice(
        section + ".optimizer", [outer](Config& c) { return &outer(c)->optimizer; },
        {"average", "nesterov"}, "how a round's results become the new weights"));
    keys.push_back(key(
        section + ".lr", [outer](Config& c) { return &outer(c)->lr; }, above(0),
        "outer learning rate of nesterov"));
    keys.push_back(key(
        section + ".momentum", [outer](Config& c) { return &outer(c)->momentum; }, below_one(),
        "outer momentum of nesterov"));
}

// The period and the outer optimizer of a class of parameters: what is not given is as in
// federation.local_steps and federation.outer.
void add_class_federation_keys(Keys& keys, const std::string& name,
                               OuterConfig FederationConfig::*part, bool FederationConfig::*named,
                               int FederationConfig::*steps) {
    keys.push_back(key(
        "federation." + name + ".local_steps",
        [steps](Config& c) { return &(c.federation.*steps); }, period_from(1),
        "steps between exchanges; divides federation.local_steps or is a multiple of it"));
    keys.back().given = [steps](const Config& c) { return c.federation.*steps > 0; };
    keys.back().otherwise = "federation.local_steps";
    if (name != "shared") keys.back().effects = {with_routed_layers()};
    const std::string section = "federation." + name + ".outer";
    const size_t first = keys.size();
    add_outer_keys(keys, section, [part](Config& c) { return &(c.federation.*part); });
    for (size_t i = first; i < keys.size(); ++i) {
        keys[i].inherits = "federation.outer" + keys[i].path.substr(section.size());
        keys[i].given = [named](const Config& c) { return c.federation.*named; };
        keys[i].named = [named](Config& c) { c.federation.*named = true; };
        if (name != "shared") keys[i].effects.push_back(with_routed_layers());
        if (i == first) continue;
        keys[i].effects.push_back(acts_by({section + ".optimizer"}, [part](const Config& c) {
            return (c.federation.*part).optimizer == OuterKind::nesterov;
        }));
    }
}

// The period of a moment under `inner_state: average`.
void add_moment_keys(Keys& keys, const std::string& name, int FederationConfig::*steps) {
    keys.push_back(key(
        "federation." + name + "_moment.local_steps",
        [steps](Config& c) { return &(c.federation.*steps); }, period_from(1),
        "steps between averages; a multiple of federation.local_steps"));
    keys.back().given = [steps](const Config& c) { return c.federation.*steps > 0; };
    keys.back().otherwise = "federation.local_steps";
    keys.back().effects = {or_refused(acts_by({"federation.inner_state"}, [](const Config& c) {
        return c.federation.inner_state == InnerState::average;
    }))};
}

}  // namespace

void add_federation_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "federation.local_steps", [](Config& c) { return &c.federation.local_steps; },
                period_from(1), "steps of a round"),
            key(
                "federation.schedule", [](Config& c) { return &c.federation.schedule; },
                period_from(1), "step: steps of a round from the end of that step on"),
            choice(
                "federation.placement", [](Config& c) { return &c.federation.placement; },
                {"blocks", "rotate", "explicit"}, "which group holds which experts")
                .only(acts_unless(
                    "where every group holds every expert",
                    [](const Config& c) { return explicit_placement(c) || !full_replicas(c); })),
            key(
                "federation.replication", [](Config& c) { return &c.federation.replication; },
                whole(1), "groups that hold each expert, under placement blocks and rotate"),
        });
    keys.back().effects = {or_refused(
        acts_by({"federation.placement"}, [](const Config& c) { return !explicit_placement(c); }))};
    keys.push_back(key(
                       "federation.replication_warmup",
                       [](Config& c) { return &c.federation.replication_warmup; }, whole(0),
                       "first rounds in which every group holds every expert")
                       .only(or_refused(acts_unless(
                           "where every group holds every expert anyway", [](const Config& c) {
                               return c.federation.replication_warmup == 0 || !full_replicas(c);
                           }))));
    keys.push_back(choice(
                       "federation.absent", [](Config& c) { return &c.federation.absent; },
                       {"skip", "renormalize", "reroute", "proxy"},
                       "what happens to a choice whose expert is not in the group")
                       .only(with_absent_experts())
                       .only(with_routed_layers()));
    keys.push_back(key(
        "federation.max_renormalize", [](Config& c) { return &c.federation.max_renormalize; },
        at_least(1), "largest factor on the gates that renormalize leaves"));
    keys.back().effects = {or_refused(acts_by({"federation.absent"}, [](const Config& c) {
        return c.federation.absent == AbsentPolicy::renormalize;
    }))};
    keys.push_back(key(
        "federation.refresh", [](Config& c) { return &c.federation.refresh; }, whole(1),
        "rounds of the experts after which proxy takes new copies of those the group lacks"));
    keys.back().effects = {or_refused(acts_by({"federation.absent"}, [](const Config& c) {
        return c.federation.absent == AbsentPolicy::proxy;
    }))};
    keys.push_back(key(
        "federation.affinity_loss", [](Config& c) { return &c.federation.affinity_loss; },
        at_least(0),
        "weight of minus the log of the router's mass on the group's experts; 0: none"));
    keys.back().effects = {or_refused(acts_by({"federation.absent"},
                                              [](const Config& c) {
                                                  return c.federation.absent != AbsentPolicy::proxy;
                                              })),
                           with_routed_layers(), with_absent_experts()};
    keys.push_back(choice(
                       "federation.weights", [](Config& c) { return &c.federation.weights; },
                       {"uniform", "tokens"},
                       "how much each group counts in the average of a round")
                       .only(with_several_groups()));
    add_outer_keys(keys, "federation.outer", [](Config& c) { return &c.federation.outer; });
    for (size_t i = keys.size() - 2; i < keys.size(); ++i)  // lr and momentum
        keys[i].effects = {acts_by({"federation.outer.optimizer"}, outer_momentum),
                           with_outer_steps()};
    using F = FederationConfig;
    add_class_federation_keys(keys, "shared", &F::shared, &F::shared_named, &F::shared_steps);
    add_class_federation_keys(keys, "router", &F::router, &F::router_named, &F::router_steps);
    keys.push_back(
        choice(
            "federation.router.average", [](Config& c) { return &c.federation.router_average; },
            {"all", "owners"}, "which groups a row of the router is averaged over")
            .only(acts_unless("where every group holds every expert and has the same weight",
                              [](const Config& c) {
                                  return !full_replicas(c) ||
                                         c.federation.weights == WeightsKind::tokens;
                              }))
            .only(with_routed_layers()));
    add_class_federation_keys(keys, "expert", &F::expert, &F::expert_named, &F::expert_steps);
    keys.push_back(choice(
                       "federation.inner_state",
                       [](Config& c) { return &c.federation.inner_state; },
                       {"keep", "reset", "average"},
                       "what becomes of AdamW's moments of what a round has exchanged")
                       .only(with_outer_steps()));
    add_moment_keys(keys, "first", &F::first_moment_steps);
    add_moment_keys(keys, "second", &F::second_moment_steps);
    keys.push_back(key(
                       "federation.reject_above",
                       [](Config& c) { return &c.federation.reject_above; }, at_least(0),
                       "largest norm of a contribution, in medians over the groups; 0: any")
                       .only(with_several_groups()));
    keys.push_back(key(
                       "federation.probe_sequences",
                       [](Config& c) { return &c.federation.probe_sequences; }, whole(0),
                       "held-out sequences on which groups compare their routing; 0: none")
                       .only(with_several_groups())
                       .only(with_routed_layers())
                       .untrained());
    keys.push_back(key(
                       "federation.evaluate_every",
                       [](Config& c) { return &c.federation.evaluate_every; }, whole(0),
                       "rounds between evaluations of union and own models; 0: none")
                       .untrained());
    keys.push_back(key(
                       "federation.exchange_timeout",
                       [](Config& c) { return &c.federation.exchange_timeout; },
                       Limits{.least = 0, .most = 1e9, .above = true, .far = true},
                       "seconds until a silent group fails the round")
                       .only(with_several_ranks())
                       .in(Unit::seconds)
                       .untrained());
}

void add_calibration_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "calibration.steps", [](Config& c) { return &c.calibration.steps; }, steps_from(0),
                "steps of the union's calibration behind the last step of the run; 0: none")
                .in(Unit::steps)
                .untrained(),
            choice(
                "calibration.weights", [](Config& c) { return &c.calibration.weights; },
                {"router", "shared"},
                "what it trains beside a scale of each MoE layer: routers and norm gains, "
                "or all "
                "weights but the experts")
                .only(acts_by({"calibration.steps"},
                              [](const Config& c) { return c.calibration.steps > 0; }))
                .untrained(),
            key(
                "calibration.lr", [](Config& c) { return &c.calibration.lr; }, at_least(0),
                "its learning rate at the first step; falls linearly to 0")
                .only(acts_by({"calibration.steps"},
                              [](const Config& c) { return c.calibration.steps > 0; }))
                .untrained(),
            key(
                "calibration.local_steps", [](Config& c) { return &c.calibration.local_steps; },
                period_from(1), "its steps between averages over the groups")
                .only(with_several_groups())
                .only(acts_by({"calibration.steps"},
                              [](const Config& c) { return c.calibration.steps > 0; }))
                .untrained(),
        });
}

}  // namespace fomoe
