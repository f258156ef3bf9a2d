// Which classes are due at a step, and whose contribution counts.
#include "federation/participants.h"

#include <catch2/catch.hpp>
#include <limits>

using namespace fomoe;

namespace {

std::vector<bool> accepted(const std::vector<double>& norms, double reject_above) {
    std::vector<Offer> offers;
    for (double norm : norms) offers.push_back({.finite = true, .norm = norm});
    return contributors(offers, reject_above);
}

}  // namespace

TEST_CASE("a class is due at the multiples of its period") {
    FederationConfig config;
    config.local_steps = 4;
    for (int64_t step = 1; step <= 20; ++step)
        CHECK(classes_due(config, step) == (step % 4 ? Classes{} : kAllClasses));
    config.shared_steps = 2;
    config.expert_steps = 12;
    CHECK(period_of(config, ParamClass::router) == 4);
    CHECK(classes_due(config, 1) == Classes{});
    CHECK(classes_due(config, 2) == Classes{true, false, false});
    CHECK(classes_due(config, 3) == Classes{});
    CHECK(classes_due(config, 4) == Classes{true, true, false});
    CHECK(classes_due(config, 12) == kAllClasses);
    // Nobody has the period of federation.local_steps.
    config.shared_steps = config.router_steps = config.expert_steps = 8;
    CHECK(classes_due(config, 4) == Classes{});
    CHECK(classes_due(config, 8) == kAllClasses);
}

TEST_CASE("a moment is due at the multiples of its period, if moments are averaged") {
    FederationConfig config;
    config.local_steps = 4;
    config.second_moment_steps = 12;
    CHECK(moments_due(config, 12) == kNoMoments);
    config.inner_state = InnerState::average;
    CHECK(moments_due(config, 2) == kNoMoments);
    CHECK(moments_due(config, 4) == Moments{true, false});
    CHECK(moments_due(config, 12) == kAllMoments);
    config.first_moment_steps = 8;
    CHECK(moments_due(config, 4) == kNoMoments);
    CHECK(moments_due(config, 8) == Moments{true, false});
    CHECK(moments_due(config, 12) == Moments{false, true});
    CHECK(moments_due(config, 24) == kAllMoments);
}

TEST_CASE("a contribution far above the median is left out") {
    using Groups = std::vector<bool>;
    CHECK(accepted({1, 2, 3, 100}, 0) == Groups{true, true, true, true});
    // The median of an even number is the lower middle one.
    CHECK(accepted({1, 2, 3, 7.9}, 4) == Groups{true, true, true, true});
    CHECK(accepted({8.1, 1, 3, 2}, 4) == Groups{false, true, true, true});
    CHECK(accepted({3, 9, 2}, 3) == Groups{true, true, true});
    CHECK(accepted({3, 9.1, 2}, 3) == Groups{true, false, true});
    // Of two, the larger is held against the smaller; one alone is its own median.
    CHECK(accepted({10, 1}, 5) == Groups{false, true});
    CHECK(accepted({4, 1}, 5) == Groups{true, true});
    CHECK(accepted({1e30}, 1) == Groups{true});
    // Groups that stand still, or have nothing to compare, do not make the others outliers.
    CHECK(accepted({0, 0, 1}, 2) == Groups{true, true, true});
    CHECK(accepted({0, 0, 0}, 2) == Groups{true, true, true});
}

TEST_CASE("what is not finite neither counts nor is counted") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const std::vector<Offer> offers{{true, 1}, {false, nan}, {false, 0.01}, {true, 1.5}, {true, 9}};
    CHECK(contributors(offers, 3) == std::vector<bool>{true, false, false, true, false});
    CHECK(contributors(offers, 0) == std::vector<bool>{true, false, false, true, true});
}

TEST_CASE("a span takes part with its class and an owner that contributes") {
    OwnedSpan span;
    span.cls = ParamClass::router;
    span.owners = {1, 2};
    CHECK(Participants{.groups = {false, false, true}}.step(span));
    CHECK_FALSE(Participants{.groups = {true, false, false}}.step(span));
    CHECK_FALSE(
        Participants{.classes = {true, false, true}, .groups = {true, true, true}}.step(span));
}
