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
