#include "data/sampler.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <set>

#include "base/error.h"

using namespace fomoe;

namespace {

using Draws = std::vector<Sampler::Draw>;
using Mixture = std::map<std::string, double>;

Config make_config(const std::vector<Mixture>& groups, int batch) {
    Config config;
    config.seed = 5;
    config.data.seq_len = 4;
    config.data.sources = {{"a", ""}, {"b", ""}, {"c", ""}};
    config.train.batch = batch;
    config.topology.groups.clear();
    for (const Mixture& mixture : groups) config.topology.groups.push_back({.data = mixture});
    return config;
}

// Chunks of a, b and c: 30, 17 and 53.
const std::vector<int64_t> kTokens = {30 * 4 + 1, 17 * 4 + 4, 53 * 4 + 2};
const std::vector<int64_t> kChunks = {30, 17, 53};

// All groups' sequences of the steps, in the federation's order.
Draws all_draws(Sampler& sampler, const Config& config, int64_t steps) {
    Draws draws;
    for (int64_t step = 0; step < steps; ++step)
        for (size_t g = 0; g < config.topology.groups.size(); ++g)
            for (const auto& draw : sampler.draw(static_cast<int>(g), step, 0, config.train.batch))
                draws.push_back(draw);
    return draws;
}

// In every source each epoch's chunks are drawn once, and an epoch starts when the last is used up.
void check_epochs(const Draws& draws) {
    std::map<std::pair<int, int64_t>, std::set<int64_t>> seen;
    std::map<int, int64_t> counts;
    for (const auto& draw : draws) {
        INFO("source " << draw.source << " epoch " << draw.epoch << " chunk " << draw.chunk);
        REQUIRE(draw.chunk >= 0);
        REQUIRE(draw.chunk < kChunks[draw.source]);
        REQUIRE(seen[{draw.source, draw.epoch}].insert(draw.chunk).second);
        REQUIRE(draw.epoch == counts[draw.source]++ / kChunks[draw.source]);
    }
}

}  // namespace

TEST_CASE("a permutation hits every number once") {
    for (uint64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4096}) {
        std::vector<uint64_t> images;
        const Permutation order(7, n);
        for (uint64_t i = 0; i < n; ++i) images.push_back(order(i));
        std::sort(images.begin(), images.end());
        for (uint64_t i = 0; i < n; ++i) REQUIRE(images[i] == i);
    }
    // It is no identity, and another key gives another order.
    int fixed = 0, equal = 0;
    const Permutation one(1, 1000), two(2, 1000);
    for (uint64_t i = 0; i < 1000; ++i) {
        fixed += one(i) == i;
        equal += one(i) == two(i);
    }
    CHECK(fixed < 10);
    CHECK(equal < 10);
    const Permutation large(3, uint64_t{1} << 40);
    CHECK(large(0) != large(1));
}

TEST_CASE("numbers are dealt in proportion, each to one source") {
    const std::vector<uint64_t> weights = {5, 0, 1, 3, 0};
    const Proportions mixture(weights);
    const double sum = 9;
    std::vector<int64_t> counts(5);
    for (int64_t u = 0; u < 500; ++u) {
        REQUIRE(mixture.counts(u) == counts);
        ++counts[mixture.source(u)];
        CHECK(std::accumulate(counts.begin(), counts.end(), int64_t{0}) == u + 1);
        for (size_t k = 0; k < 5; ++k) CHECK(std::abs(counts[k] - (u + 1) * weights[k] / sum) < 2);
    }
    // Far out, with weights as large as a trillion tokens, nothing overflows.
    const Proportions large({3000000000000, 1000000000000});
    const int64_t far = int64_t{1} << 60;
    CHECK(large.counts(far) == std::vector<int64_t>{far / 4 * 3, far / 4});
}

TEST_CASE("no chunk is read twice in an epoch, whatever the mixtures") {
    const std::vector<std::vector<Mixture>> federations = {
        {{}},
        {{}, {}, {}},
        {{{"a", 1}}, {{"b", 1}}, {{"c", 1}}},
        {{{"a", 0.7}, {"c", 0.3}}, {}, {{"a", 1}, {"b", 1}}, {{"c", 1}}}};
    for (const auto& groups : federations) {
        const Config config = make_config(groups, 6);
        Sampler sampler(config, kTokens);
        const Draws draws = all_draws(sampler, config, 60);
        check_epochs(draws);
    }
}

TEST_CASE("a pass over one source visits every chunk") {
    const Config config = make_config({{{"b", 2}}}, 17);
    Sampler sampler(config, kTokens);
    for (int64_t step = 0; step < 3; ++step) {
        std::set<int64_t> chunks;
        for (const auto& draw : sampler.draw(0, step, 0, 17)) {
            CHECK(draw.source == 1);
            CHECK(draw.epoch == step);
            chunks.insert(draw.chunk);
        }
        CHECK(chunks.size() == 17);
    }
    CHECK(sampler.draw(0, 0, 0, 17) != sampler.draw(0, 1, 0, 17));
}

TEST_CASE("with equal mixtures the federation reads what one group would") {
    for (const Mixture& mixture : {Mixture{}, Mixture{{"a", 0.6}, {"b", 0.4}}}) {
        const Config one = make_config({mixture}, 24);
        const Config four = make_config({mixture, mixture, mixture, mixture}, 6);
        Sampler of_one(one, kTokens), of_four(four, kTokens);
        CHECK(all_draws(of_one, one, 30) == all_draws(of_four, four, 30));
    }
}

TEST_CASE("each group gets its mixture") {
    const Config config = make_config({{{"a", 3}, {"b", 1}}, {}, {{"c", 5}}}, 8);
    Sampler sampler(config, kTokens);
    std::vector<std::vector<int>> counts(3, std::vector<int>(3));
    for (int64_t step = 0; step < 500; ++step)
        for (int g = 0; g < 3; ++g)
            for (const auto& draw : sampler.draw(g, step, 0, 8)) ++counts[g][draw.source];
    CHECK(counts[0][0] == Approx(3000).margin(10));
    CHECK(counts[0][1] == Approx(1000).margin(10));
    CHECK(counts[2] == std::vector<int>{0, 0, 4000});
    const double tokens = kTokens[0] + kTokens[1] + kTokens[2];
    for (int k = 0; k < 3; ++k)
        CHECK(counts[1][k] == Approx(4000 * kTokens[k] / tokens).margin(10));
}

TEST_CASE("epochs are told as the draws have them") {
    for (const std::vector<Mixture>& groups :
         {std::vector<Mixture>{{}, {}}, {{{"a", 0.9}, {"c", 0.1}}, {{"b", 1}}, {}}}) {
        const Config config = make_config(groups, 7);
        Sampler sampler(config, kTokens);
        std::vector<double> drawn(3, 0);
        for (const Sampler::Draw& draw : all_draws(sampler, config, 50)) ++drawn[draw.source];
        const std::vector<double> epochs = sampler.epochs(50);
        REQUIRE(epochs.size() == 3);
        for (size_t k = 0; k < 3; ++k)
            CHECK(std::abs(epochs[k] * static_cast<double>(kChunks[k]) - drawn[k]) <= 3);
    }
}

TEST_CASE("the draw is a function of its arguments alone") {
    const Config config = make_config({{{"a", 0.7}, {"c", 0.3}}, {}, {{"b", 1}}}, 8);
    Sampler sampler(config, kTokens);
    const Draws in_order = all_draws(sampler, config, 20);
    // Backwards, by fresh samplers, and cut into the ranges of ranks.
    for (int64_t step = 19; step >= 0; --step)
        for (int g = 2; g >= 0; --g) {
            Sampler fresh(config, kTokens);
            Draws parts;
            for (auto [begin, end] : {std::pair{0, 3}, {3, 4}, {4, 8}})
                for (const auto& draw : sampler.draw(g, step, begin, end)) parts.push_back(draw);
            const auto expected = in_order.begin() + (step * 3 + g) * 8;
            CHECK(std::equal(parts.begin(), parts.end(), expected));
            CHECK(fresh.draw(g, step, 0, 8) == parts);
        }
    Config other = config;
    other.seed = 6;
    Sampler of_other(other, kTokens);
    CHECK(all_draws(of_other, other, 20) != in_order);
}

TEST_CASE("a source needs one sequence") {
    const Config config = make_config({{}}, 8);
    CHECK_NOTHROW(Sampler(config, {5, 5, 5}));
    CHECK_THROWS_AS(Sampler(config, {5, 4, 5}), Error);
    CHECK_THROWS_AS(Sampler(config, {0, 5, 5}), Error);
}
