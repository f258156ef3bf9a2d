// What a step does with choices whose expert another group holds.
#include "support/step_plan.h"

using namespace fomoe;

namespace {

constexpr AbsentPolicy kPolicies[] = {AbsentPolicy::skip, AbsentPolicy::renormalize,
                                      AbsentPolicy::reroute, AbsentPolicy::proxy};

// Two groups; the first has the experts 0 to 3 of 8.
Plan two_groups(Config config, AbsentPolicy absent, double affinity_loss = 0) {
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    config.federation.absent = absent;
    config.federation.affinity_loss = affinity_loss;
    return {config};
}

}  // namespace

TEST_CASE("with every expert in every group all policies for absent choices give the same bits") {
    for (const Config& config : {tiny_sigmoid_config(), tiny_softmax_config()})
        for (int replication : {1, 2}) {
            std::vector<Trained> outcomes;
            for (AbsentPolicy absent : kPolicies)
                for (double affinity_loss : {0.0, 0.5}) {
                    if (absent == AbsentPolicy::proxy && affinity_loss > 0) continue;
                    Plan plan = two_groups(config, absent, affinity_loss);
                    plan.config.federation.replication = replication;
                    plan.steps = 5;
                    outcomes.push_back(train(plan));
                }
            for (size_t i = 1; i < outcomes.size(); ++i) {
                INFO("replication " << replication << ", policy and affinity loss " << i);
                const bool whole = replication == 2;
                CHECK((outcomes[i].weights == outcomes[0].weights) == whole);
                CHECK((outcomes[i].gradients == outcomes[0].gradients) == whole);
                CHECK(same(outcomes[i].results[4], outcomes[0].results[4]) == whole);
                const bool proxy = i + 1 == outcomes.size();  // to its router none is absent
                CHECK((outcomes[i].results[4].affinity == 0) == (whole || proxy));
            }
        }
}

TEST_CASE("ranks and accumulation do not change gradients where choices are absent") {
    for (AbsentPolicy absent :
         {AbsentPolicy::renormalize, AbsentPolicy::reroute, AbsentPolicy::proxy})
        for (const Config& config : {tiny_sigmoid_config(), tiny_softmax_config()})
            for (AuxScope scope : {AuxScope::sequence, AuxScope::group, AuxScope::federation}) {
                const bool proxy = absent == AbsentPolicy::proxy;
                Plan plan = two_groups(config, absent, proxy ? 0 : 0.3);
                plan.config.model.moe.aux_scope = scope;
                const Trained alone = train(on_ranks(plan, 1, 1, 8));
                CHECK((alone.results[0].affinity > 0.1) != proxy);
                CHECK((alone.results[0].served > 0) == proxy);
                check_same_gradients(plan, alone, {{1, 1, 1}, {2, 2, 4}, {4, 2, 1}, {4, 4, 2}});
            }
}

TEST_CASE("rerouted tokens are served by residents, whose balance is all that counts") {
    for (AuxScope scope : {AuxScope::sequence, AuxScope::group}) {
        Plan plan = two_groups(tiny_sigmoid_config(), AbsentPolicy::reroute);
        plan.config.model.moe.aux_scope = scope;
        plan.steps = 3;
        const Trained outcome = train(plan);
        for (size_t s = 0; s < outcome.results.size(); ++s) {
            const StepResult& result = outcome.results[s];
            const double choices = 2.0 * 2 * static_cast<double>(result.valid_tokens);
            CHECK(result.skipped == 0);
            CHECK(result.executed_choices == choices);
            double imbalance = 0;
            for (int l = 0; l < 2; ++l) {
                const float* load = outcome.loads[s].data() + 8 * l;
                for (int e = 4; e < 8; ++e) CHECK(load[e] == 0);
                imbalance += 4 * *std::max_element(load, load + 4) / choices;
            }
            CHECK(result.imbalance == Approx(imbalance));
        }
        // Before the first count a group expects the same of each resident: 1, as if routing were
        // even. The routing of the start nearly is.
        if (scope == AuxScope::group)
            CHECK(outcome.results[0].aux == Approx(1));
        else
            CHECK(outcome.results[0].aux == Approx(1).epsilon(0.3));
        for (int l = 0; l < 2; ++l) {
            const std::vector<float>& bias =
                outcome.weights.at(concat("model.layers.", l, ".mlp.gate.e_score_correction_bias"));
            CHECK(std::any_of(bias.begin(), bias.begin() + 4, [](float b) { return b > 0; }));
            CHECK(std::any_of(bias.begin(), bias.begin() + 4, [](float b) { return b < 0; }));
            for (int e = 4; e < 8; ++e) CHECK(bias[e] == 0);
        }
    }
}

TEST_CASE("the affinity loss teaches the router which experts the group has") {
    for (AbsentPolicy absent : kPolicies) {
        if (absent == AbsentPolicy::proxy) continue;
        Plan plan = two_groups(tiny_config(), absent, 1.0);
        plan.config.train.optimizer.lr = 1e-2;
        plan.steps = 40;
        const Trained with = train(plan);
        plan.config.federation.affinity_loss = 0;
        const Trained without = train(plan);
        CHECK(with.results.front().affinity == without.results.front().affinity);
        CHECK(with.results.front().affinity == Approx(std::log(2)).epsilon(0.2));
        INFO(with.results.back().affinity << " with, " << without.results.back().affinity);
        CHECK(with.results.back().affinity < 0.05);
        CHECK(without.results.back().affinity > 0.2);
    }
}
