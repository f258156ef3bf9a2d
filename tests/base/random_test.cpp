// Counter-based random numbers: pure functions with the right distributions.
#include "base/random.h"

#include <catch2/catch.hpp>
#include <set>

using namespace fomoe;

TEST_CASE("random: the bits are those of splitmix64") {
    // The first outputs of the published generator from the state 1234567.
    CHECK(mix_bits(1234567) == 6457827717110365317ull);
    CHECK(mix_bits(1234567 + 0x9e3779b97f4a7c15ull) == 3203168211198807973ull);
}

TEST_CASE("random: keys depend on seed and on every letter of the name") {
    std::set<uint64_t> keys;
    for (uint64_t seed : {0, 1, 2})
        for (const char* name : {"", "a", "b", "ab", "ba", "abc", "layers.0", "layers.1"})
            keys.insert(random_key(seed, name));
    CHECK(keys.size() == 24);
    static_assert(random_key(7, "embedding") == random_key(7, "embedding"));
    static_assert(random_key(7, "embedding") != random_key(8, "embedding"));
}

TEST_CASE("random: an element can be drawn in any order") {
    const uint64_t key = random_key(3, "x");
    const float late = random_normal(key, 1000);
    for (uint64_t i = 0; i < 1000; ++i) random_normal(key, i);
    CHECK(random_normal(key, 1000) == late);
    CHECK(random_bits(key, 5) != random_bits(key, 6));
    CHECK(random_bits(key, 5) != random_bits(random_key(3, "y"), 5));
}

TEST_CASE("random: uniform numbers lie inside (0, 1) and fill it evenly") {
    const uint64_t key = random_key(1, "uniform");
    constexpr int kCells = 16, kDraws = 64000;
    int cell[kCells] = {};
    double sum = 0, neighbours = 0, last = 0.5;
    for (int i = 0; i < kDraws; ++i) {
        const double u = random_uniform(key, i);
        REQUIRE(u > 0);
        REQUIRE(u < 1);
        ++cell[static_cast<int>(u * kCells)];
        sum += u;
        neighbours += (u - 0.5) * (last - 0.5);
        last = u;
    }
    for (int count : cell) CHECK(count == Approx(kDraws / kCells).epsilon(0.08));
    CHECK(sum / kDraws == Approx(0.5).margin(0.005));
    CHECK(neighbours / kDraws == Approx(0).margin(0.002));
}

TEST_CASE("random: normal numbers have the moments of the normal distribution") {
    const uint64_t key = random_key(1, "normal");
    constexpr int kDraws = 200000;
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
    int beyond_two = 0;
    for (int i = 0; i < kDraws; ++i) {
        const double x = random_normal(key, i);
        REQUIRE(std::isfinite(x));
        m1 += x / kDraws;
        m2 += x * x / kDraws;
        m3 += x * x * x / kDraws;
        m4 += x * x * x * x / kDraws;
        beyond_two += std::abs(x) > 2;
    }
    CHECK(m1 == Approx(0).margin(0.01));
    CHECK(m2 == Approx(1).margin(0.015));
    CHECK(m3 == Approx(0).margin(0.03));
    CHECK(m4 == Approx(3).margin(0.1));
    CHECK(double(beyond_two) / kDraws == Approx(0.0455).margin(0.002));
}
