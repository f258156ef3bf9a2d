// Learning rates by step, and clipping.
#include "optim/schedule.h"

#include <catch2/catch.hpp>

using namespace fomoe;

TEST_CASE("the rate rises over the warm-up and falls to its minimum at the last step") {
    OptimizerConfig config{.lr = 1.0, .min_lr = 0.1, .warmup = 4};
    CHECK(learning_rate(config, 1, 104) == Approx(0.25));
    CHECK(learning_rate(config, 3, 104) == Approx(0.75));
    CHECK(learning_rate(config, 4, 104) == Approx(1.0));
    SECTION("cosine") {
        config.schedule = LrSchedule::cosine;
        CHECK(learning_rate(config, 29, 104) == Approx(0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5))));
        CHECK(learning_rate(config, 54, 104) == Approx(0.55));
        CHECK(learning_rate(config, 104, 104) == Approx(0.1));
    }
    SECTION("linear") {
        config.schedule = LrSchedule::linear;
        CHECK(learning_rate(config, 29, 104) == Approx(0.1 + 0.9 * 0.75));
        CHECK(learning_rate(config, 104, 104) == Approx(0.1));
    }
    SECTION("constant") {
        config.schedule = LrSchedule::constant;
        CHECK(learning_rate(config, 5, 104) == 1.0);
        CHECK(learning_rate(config, 104, 104) == 1.0);
    }
    // Steps behind the last keep the minimum.
    if (config.schedule != LrSchedule::constant)
        CHECK(learning_rate(config, 200, 104) == Approx(0.1));
}

TEST_CASE("a run that is all warm-up, and one without") {
    OptimizerConfig config{.lr = 2.0, .min_lr = 0.5, .warmup = 10};
    CHECK(learning_rate(config, 10, 10) == 2.0);
    CHECK(learning_rate(config, 9, 10) == Approx(1.8));
    config.warmup = 0;
    CHECK(learning_rate(config, 1, 100) < 2.0);
    CHECK(learning_rate(config, 1, 100) > 1.99);
    CHECK(learning_rate(config, 1, 1) == Approx(0.5));
}
