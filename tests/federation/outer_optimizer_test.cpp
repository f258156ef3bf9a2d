// Which rule a span gets, and what a step computes.
#include "federation/outer_optimizer.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

using namespace fomoe;

TEST_CASE("a single owner averages unless its class is named") {
    FederationConfig config;
    config.shared = {.optimizer = OuterKind::nesterov, .lr = 0.5, .momentum = 0.8};
    config.router = {.optimizer = OuterKind::average, .lr = 1, .momentum = 0};
    config.expert = config.shared;

    const OuterRule shared = outer_rule(config, ParamClass::shared, 3);
    CHECK(shared.kind == OuterKind::nesterov);
    CHECK(shared.lr == 0.5f);
    CHECK(shared.momentum == 0.8f);
    CHECK(shared.keeps_anchor);

    const OuterRule router = outer_rule(config, ParamClass::router, 3);
    CHECK(router.kind == OuterKind::average);
    CHECK(router.keeps_anchor);
    CHECK_FALSE(router.keeps_momentum());

    const OuterRule expert = outer_rule(config, ParamClass::expert, 1);
    CHECK(expert.kind == OuterKind::average);
    CHECK_FALSE(expert.keeps_anchor);

    config.expert_named = true;
    CHECK(outer_rule(config, ParamClass::expert, 1).kind == OuterKind::nesterov);
    CHECK(outer_rule(config, ParamClass::expert, 1).keeps_anchor);
    config.router_named = true;
    CHECK_FALSE(outer_rule(config, ParamClass::router, 1).keeps_anchor);
}

TEST_CASE("a class with its own period takes the converted momentum and rate") {
    FederationConfig config;
    config.local_steps = 8;
    config.outer = {.optimizer = OuterKind::nesterov, .lr = 0.5, .momentum = 0.64};
    config.shared = config.router = config.expert = config.outer;
    config.shared_steps = 8;
    config.router_steps = 16;
    config.expert_steps = 4;

    const OuterRule shared = outer_rule(config, ParamClass::shared, 2);
    CHECK(shared.momentum == 0.64f);
    CHECK(shared.lr == 0.5f);
    // mu = 0.64^2, lr = 0.5 (1 - 0.4096) / 0.36
    const OuterRule router = outer_rule(config, ParamClass::router, 2);
    CHECK(router.kind == OuterKind::nesterov);
    CHECK(router.momentum == 0.4096f);
    CHECK(router.lr == Approx(0.82));

    // More often than a round: the mean, unless the class is named.
    CHECK(outer_rule(config, ParamClass::expert, 2).kind == OuterKind::average);
    CHECK(outer_rule(config, ParamClass::expert, 2).keeps_anchor);
    config.expert_named = true;
    const OuterRule expert = outer_rule(config, ParamClass::expert, 2);
    CHECK(expert.kind == OuterKind::nesterov);
    CHECK(expert.momentum == 0.8f);
    CHECK(expert.lr == Approx(0.5 * 0.2 / 0.36));
    // Named, one owner steps too, whatever its period.
    CHECK(outer_rule(config, ParamClass::expert, 1).momentum == 0.8f);
    CHECK(outer_rule(config, ParamClass::router, 1).kind == OuterKind::average);

    config.expert.momentum = 0;
    CHECK(outer_rule(config, ParamClass::expert, 2).momentum == 0);
    CHECK(outer_rule(config, ParamClass::expert, 2).lr == 0.5f);
}

TEST_CASE("a steady direction moves the anchor as far, whatever the period") {
    // The owners go on by 1 a step from where the last round left them; after many rounds the
    // anchor's speed is lr / (1 - mu) a step.
    FederationConfig config;
    config.local_steps = 4;
    config.outer = {.optimizer = OuterKind::nesterov, .lr = 0.3, .momentum = 0.5};
    config.shared = config.outer;
    config.shared_named = true;
    for (int period : {1, 2, 4, 8, 20}) {
        CAPTURE(period);
        config.shared_steps = period;
        const OuterRule rule = outer_rule(config, ParamClass::shared, 2);
        float anchor = 0, momentum = 0, before = 0;
        for (int round = 0; round < 100; ++round) {
            before = anchor;
            const float average = anchor + period;
            float next = 0, next_momentum = 0;
            outer_update(rule,
                         {.anchor = &anchor,
                          .average = &average,
                          .momentum = &momentum,
                          .next_anchor = &next,
                          .next_momentum = &next_momentum},
                         1);
            anchor = next;
            momentum = next_momentum;
        }
        CHECK((anchor - before) / period == Approx(0.6).epsilon(1e-4));
    }
}

TEST_CASE("nesterov by hand") {
    const OuterRule rule{.kind = OuterKind::nesterov, .lr = 0.5f, .momentum = 0.75f};
    const std::vector<float> anchor{4, -2}, average{2, -2}, momentum{1, 8};
    std::vector<float> next(2), next_momentum(2);
    outer_update(rule,
                 {.anchor = anchor.data(),
                  .average = average.data(),
                  .momentum = momentum.data(),
                  .next_anchor = next.data(),
                  .next_momentum = next_momentum.data()},
                 2);
    // p = 2, m = 0.75 + 2, next = 4 - 0.5 (0.75 * 2.75 + 2)
    CHECK(next_momentum[0] == 2.75f);
    CHECK(next[0] == 1.96875f);
    CHECK(next_momentum[1] == 6.0f);
    CHECK(next[1] == -4.25f);
}

TEST_CASE("a contribution alone passes unchanged") {
    const std::vector<float> x{0.1f, -3e-40f, 1e38f};
    std::vector<float> average(3);
    const float* contributions[] = {x.data()};
    const float weights[] = {1.0f};
    weighted_average(contributions, weights, 3, average.data());
    CHECK(average == x);
}

TEST_CASE("finite means neither NaN nor infinite, wherever it stands") {
    std::vector<float> x(100, 3e38f);
    CHECK(all_finite(x.data(), 100));
    CHECK(all_finite(x.data(), 0));
    for (float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF})
        for (int i : {0, 50, 99}) {
            x[i] = bad;
            CHECK_FALSE(all_finite(x.data(), 100));
            x[i] = 0;
        }
}
