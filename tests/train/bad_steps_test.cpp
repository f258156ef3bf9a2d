// Which steps are bad, by the rule and its state.
#include "train/bad_steps.h"

#include <catch2/catch.hpp>
#include <limits>

#include "base/error.h"

using namespace fomoe;
using Catch::Contains;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kTokens = 4;

std::string judged(BadSteps& steps, double loss, double norm) {
    return steps.judge({.loss = loss * kTokens, .squares = norm * norm}, kTokens, "step 9");
}

// So many good steps, of losses around 2 and norms around 1.
void train(BadSteps& steps, int n) {
    for (int i = 0; i < n; ++i)
        REQUIRE(judged(steps, 2 + 0.01 * (i % 3), 1 + 0.01 * (i % 3)) == "");
}

}  // namespace

TEST_CASE("bad steps: a number that is not finite is bad from the first step on") {
    BadSteps steps({.action = BadStepAction::skip, .spike = 0, .most = 3});
    CHECK(judged(steps, 1e300, 1e150) == "");  // no rule for spikes
    CHECK_THAT(judged(steps, kNaN, 1), Contains("loss nan"));
    CHECK_THAT(judged(steps, 2, -kNaN), Contains("gradient norm"));
    CHECK(judged(steps, 2, 1) == "");
}

TEST_CASE("bad steps: a spike is judged by the median of good steps, once there are enough") {
    BadSteps steps({.action = BadStepAction::skip, .spike = 3, .most = 3});
    train(steps, 15);
    CHECK(steps.limits(kTokens).loss == std::numeric_limits<double>::max());
    train(steps, 1);
    const BadSteps::Sums most = steps.limits(kTokens);
    CHECK(most.loss == Approx(3 * 2.01 * kTokens));
    CHECK(most.squares == Approx(9 * 1.01 * 1.01));

    CHECK_THAT(judged(steps, 6.1, 1), Contains("the loss 6.1 is 3.03 times the median of the last "
                                               "16 good steps"));
    CHECK_THAT(judged(steps, 2, 3.1), Contains("the gradient norm 3.1 is "));
    // What is at the limit is good, for the backend as well.
    CHECK(steps.judge(most, kTokens, "") == "");
    // Bad steps have not moved the median.
    CHECK(steps.limits(kTokens).loss == Approx(3 * 2.01 * kTokens));
    // 64 steps later nothing is known of the steps before.
    for (int i = 0; i < 64; ++i) REQUIRE(judged(steps, 5, 2.9) == "");
    CHECK(steps.limits(kTokens).loss == Approx(3 * 5.0 * kTokens));
    CHECK(steps.limits(1).loss == Approx(3 * 5.0));
}

TEST_CASE("bad steps: too many in a row, or one where the config says stop, end the run") {
    BadSteps skips({.action = BadStepAction::skip, .spike = 0, .most = 2});
    const auto diverges = [](BadSteps& steps, const char* part) {
        try {
            judged(steps, kNaN, 1);
        } catch (const Error& error) {
            CHECK(error.exit == Exit::diverged);
            CHECK_THAT(error.what(), Contains("step 9: loss nan") && Contains(part));
            return true;
        }
        return false;
    };
    for (int i = 0; i < 2; ++i) CHECK_FALSE(diverges(skips, ""));
    train(skips, 1);
    for (int i = 0; i < 2; ++i) CHECK_FALSE(diverges(skips, ""));
    CHECK(diverges(skips, "bad step number 3 in a row"));

    BadSteps stops({.action = BadStepAction::stop, .spike = 0, .most = 2});
    CHECK(diverges(stops, "train.bad_step.action: skip"));
    // A rollback counts its returns, not its bad steps.
    BadSteps returns({.action = BadStepAction::rollback, .spike = 0, .most = 0});
    CHECK_FALSE(diverges(returns, ""));
}

TEST_CASE("bad steps: the state goes on to the bit") {
    const BadStepConfig config{.action = BadStepAction::skip, .spike = 3, .most = 2};
    for (int good : {0, 5, 16, 64, 90}) {
        BadSteps steps(config), resumed(config);
        train(steps, good);
        for (int i = 0; i < 2; ++i) judged(steps, kNaN, 1);
        resumed.set_state(steps.state());
        CHECK(resumed.state() == steps.state());
        CHECK(resumed.limits(kTokens).loss == steps.limits(kTokens).loss);
        CHECK(resumed.limits(kTokens).squares == steps.limits(kTokens).squares);
        CHECK_THROWS_AS(judged(resumed, kNaN, 1), Error);
    }
    BadSteps steps(config);
    std::vector<float> state = steps.state();
    for (const float wrong : {-1.0f, 65.0f, static_cast<float>(kNaN)}) {
        state[1] = wrong;
        CHECK_THROWS_AS(steps.set_state(state), Error);
    }
}
