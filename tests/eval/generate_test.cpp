// How a token is drawn from logits.
#include "eval/generate.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

using namespace fomoe;

namespace {

const std::vector<float> kLogits{0.0f, 2.0f, 1.0f, 2.0f, -5.0f};

// Shares of each token over evenly spread draws.
std::vector<double> shares(const GenerateOptions& options) {
    constexpr int kDraws = 20000;
    std::vector<double> share(kLogits.size());
    for (int i = 0; i < kDraws; ++i)
        share[sample_token(kLogits, options, (i + 0.5) / kDraws)] += 1.0 / kDraws;
    return share;
}

}  // namespace

TEST_CASE("temperature 0 takes the likeliest token, of equal ones the first") {
    for (double draw : {0.01, 0.5, 0.99})
        CHECK(sample_token(kLogits, {.temperature = 0}, draw) == 1);
}

TEST_CASE("tokens are drawn by softmax(logits / temperature)") {
    for (double temperature : {0.5, 1.0, 3.0}) {
        const std::vector<double> share = shares({.temperature = temperature, .top_p = 1.0});
        double sum = 0;
        for (float logit : kLogits) sum += std::exp(logit / temperature);
        for (size_t i = 0; i < kLogits.size(); ++i)
            CHECK(share[i] == Approx(std::exp(kLogits[i] / temperature) / sum).margin(1e-3));
    }
}

TEST_CASE("top_p keeps the smallest set of likeliest tokens with that mass") {
    // The two tokens with logit 2 have 0.796 of the mass at temperature 1.
    std::vector<double> share = shares({.temperature = 1, .top_p = 0.7});
    CHECK(share[1] == Approx(0.5).margin(1e-3));
    CHECK(share[3] == Approx(0.5).margin(1e-3));
    CHECK(share[0] + share[2] + share[4] == 0);
    share = shares({.temperature = 1, .top_p = 0.85});
    CHECK(share[2] > 0.1);
    CHECK(share[0] + share[4] == 0);
    CHECK(shares({.temperature = 1, .top_p = 1e-6})[1] == Approx(1));
}
