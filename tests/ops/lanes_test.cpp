// How the CPU's kernels read, round and sum rows.
#include "ops/cpu/lanes.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

using namespace fomoe;

namespace {

constexpr uint16_t kUntouched = 0x1234;

// What for_lanes writes of n elements, and what it leaves behind them.
std::vector<bf16> rounded_row(const std::vector<float>& x, int64_t n) {
    std::vector<bf16> y(x.size(), bf16{kUntouched});
    for_lanes(n, [&](int64_t i, auto vec) { vec.store(&y[i], vec.load(&x[i])); });
    return y;
}

}  // namespace

TEST_CASE("lanes: every bf16 is read as it is and written back") {
    std::vector<bf16> all(1 << 16), back(1 << 16);
    std::vector<float> wide(1 << 16);
    for (int i = 0; i < 1 << 16; ++i) all[i].bits = static_cast<uint16_t>(i);
    for_lanes(1 << 16, [&](int64_t i, auto vec) {
        const Vec x = vec.load(&all[i]);
        vec.store(&wide[i], x);
        vec.store(&back[i], x);
    });
    int wrong = 0;
    for (int i = 0; i < 1 << 16; ++i) {
        const float x = to_f32(all[i]);
        wrong += std::bit_cast<uint32_t>(wide[i]) != std::bit_cast<uint32_t>(x);
        if (std::isnan(x))
            wrong += !std::isnan(to_f32(back[i]));
        else if (x == 0 || std::isnormal(x) || std::isinf(x))
            wrong += back[i].bits != all[i].bits;
        else
            wrong += std::fabs(to_f32(back[i])) > std::fabs(x);
    }
    CHECK(wrong == 0);
}

TEST_CASE("lanes: f32 is rounded to the nearest bf16, ties to even") {
    std::vector<float> x;
    for (const float edge :
         {1.00390625f, 1.01171875f, 1.00390637f, 1.00390613f, 3.38953139e38f, 3.39e38f,
          std::numeric_limits<float>::max(), 0.0f, std::numeric_limits<float>::infinity()}) {
        x.push_back(edge);
        x.push_back(-edge);
    }
    for (int i = 0; i < 10000; ++i) x.push_back(random_normal(random_key(1, "lanes"), i));
    const std::vector<bf16> y = rounded_row(x, std::ssize(x));
    int wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) wrong += y[i].bits != to_bf16(x[i]).bits;
    CHECK(wrong == 0);
    CHECK(std::isnan(to_f32(rounded_row({std::numeric_limits<float>::quiet_NaN()}, 1)[0])));
}

TEST_CASE("lanes: the last part of a row ends where the row ends") {
    for (int64_t n = 0; n <= 3 * kLanes; ++n) {
        INFO(n << " elements");
        std::vector<float> x(4 * kLanes);
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i + 1);
        const std::vector<bf16> y = rounded_row(x, n);
        for (int64_t i = 0; i < std::ssize(x); ++i)
            REQUIRE(y[i].bits == (i < n ? to_bf16(x[i]).bits : kUntouched));
        Vec sum{};
        for_lanes(n, [&](int64_t i, auto vec) { sum += vec.load(&y[i]); });
        CHECK(sum_of(sum) == static_cast<float>(n * (n + 1) / 2));
    }
}

TEST_CASE("lanes: reciprocal and square root") {
    for (int exponent = -119; exponent < 119; ++exponent) {
        Vec x;
        for (int i = 0; i < kLanes; ++i) x[i] = std::ldexp(1.0f + i / 17.0f, exponent);
        const Vec y = reciprocal(x), root = sqrt(x);
        for (int i = 0; i < kLanes; ++i) {
            REQUIRE(double{y[i]} * x[i] == Approx(1).epsilon(2e-7));
            REQUIRE(root[i] == std::sqrt(x[i]));
        }
    }
}
