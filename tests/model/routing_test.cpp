// What a pass tells of its routing.
#include <catch2/catch.hpp>
#include <numeric>

#include "support/model_rig.h"

using namespace fomoe;

TEST_CASE("every valid token makes top_k choices in every layer with experts") {
    for (const Config& config : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        Rig rig(config);
        const std::vector<float> load = rig.evaluate().load;
        const int E = config.model.moe.n_experts;
        for (int l = 0; l < config.model.n_layers; ++l) {
            const float sum =
                std::accumulate(load.begin() + l * E, load.begin() + (l + 1) * E, 0.0f);
            const bool dense = l < config.model.moe.first_dense_layers;
            CHECK(sum == (dense ? 0 : 2 * rig.batch().valid_tokens));
        }
    }
}

TEST_CASE("the experts that tokens chose are those that the load counts") {
    for (const Config& config : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        Rig rig(config);
        const std::vector<float> load = rig.evaluate().load;
        const int E = config.model.moe.n_experts, K = config.model.moe.top_k;
        rig.model().route(token_batch(rig.batch()));
        for (int l = config.model.moe.first_dense_layers; l < config.model.n_layers; ++l) {
            const std::vector<int32_t> chosen = rig.model().chosen_experts(l);
            REQUIRE(std::ssize(chosen) == rig.shape().tokens() * K);
            std::vector<float> counted(E);
            for (int64_t i = 0; i < std::ssize(chosen); ++i)
                if (rig.batch().targets[i / K] >= 0) ++counted.at(chosen[i]);
            CHECK(counted == std::vector<float>(load.begin() + l * E, load.begin() + (l + 1) * E));
        }
        if (config.model.moe.first_dense_layers > 0)
            CHECK_THROWS_AS(rig.model().chosen_experts(0), Error);
    }
}

TEST_CASE("the last pass tells its router logits and executed choices") {
    Config config = GENERATE(tiny_config(), tiny_softmax_config());
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    config.model.moe.aux_scope = AuxScope::sequence;
    Rig rig(config);
    std::ranges::fill(rig.batch().targets, 1);  // load counts tokens with targets
    rig.model().reset_totals();
    rig.token_losses();
    const std::vector<float> load = rig.model().totals().load;
    const Placement placement = placement_of(config);
    const int64_t N = rig.model().tokens(), E = config.model.moe.n_experts;
    std::vector<int32_t> executed(N, 0);
    for (int l = config.model.moe.first_dense_layers; l < config.model.n_layers; ++l) {
        const std::vector<float> logits = rig.model().router_logits(l);
        REQUIRE(static_cast<int64_t>(logits.size()) == N * E);
        std::vector<float> chosen(E, 0);
        for (int64_t n = 0; n < N; ++n) {
            std::vector<int> order(E);
            std::iota(order.begin(), order.end(), 0);
            std::ranges::stable_sort(
                order, [&](int a, int b) { return logits[n * E + a] > logits[n * E + b]; });
            for (int k = 0; k < config.model.moe.top_k; ++k) {
                chosen[order[k]] += 1;
                executed[n] += placement.slot(l, 0, order[k]) >= 0;
            }
        }
        CHECK(std::equal(chosen.begin(), chosen.end(), load.begin() + l * E));
    }
    CHECK(rig.model().executed_choices() == executed);
    CHECK(std::ranges::min(executed) < std::ranges::max(executed));
    CHECK_THROWS_AS(rig.model().router_logits(config.model.n_layers), Error);
    if (config.model.moe.first_dense_layers > 0)
        CHECK_THROWS_AS(rig.model().router_logits(0), Error);
}
