// The CPU backend's matmul against sums in f64.
#include "ops/cpu/matmul.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "ops/backend.h"

using namespace fomoe;

namespace {

struct Operand {
    std::vector<float> values;
    std::vector<bf16> rounded;

    Operand(uint64_t key, int64_t n) : values(n), rounded(n) {
        for (int64_t i = 0; i < n; ++i) {
            values[i] = static_cast<float>(random_normal(key, static_cast<uint64_t>(i)));
            rounded[i] = to_bf16(values[i]);
        }
    }
    double at(int64_t i, bool narrow) const { return narrow ? to_f32(rounded[i]) : values[i]; }
    MatmulOperand as(bool stored_narrow, int64_t stride, bool transposed) const {
        if (stored_narrow) return {rounded.data(), stride, transposed};
        return {values.data(), stride, transposed};
    }
};

struct Sizes {
    int64_t m, n, k;
};

// Largest error over the sum of the absolute products.
double error_of(const Sizes& s, bool a_turned, bool b_turned, bool narrow, bool stored_narrow,
                bool accumulate, int parts) {
    const Operand a(1, s.m * s.k), b(2, s.k * s.n);
    const int64_t a_stride = a_turned ? s.m : s.k, b_stride = b_turned ? s.k : s.n;
    std::vector<float> c(s.m * (s.n + 3), 0.5f);
    const Matmul whole{.c = c.data(),
                       .stride = s.n + 3,
                       .a = a.as(stored_narrow, a_stride, a_turned),
                       .b = b.as(stored_narrow, b_stride, b_turned),
                       .m = s.m,
                       .n = s.n,
                       .k = s.k,
                       .accumulate = accumulate,
                       .narrow = narrow};
    for (int part = 0; part < parts; ++part) multiply(whole.share(part, parts));
    double worst = 0;
    for (int64_t i = 0; i < s.m; ++i) {
        for (int64_t j = 0; j < s.n; ++j) {
            double sum = accumulate ? 0.5 : 0.0, size = 1;
            for (int64_t p = 0; p < s.k; ++p) {
                const double product = a.at(a_turned ? p * s.m + i : i * s.k + p, narrow) *
                                       b.at(b_turned ? j * s.k + p : p * s.n + j, narrow);
                sum += product;
                size += std::abs(product);
            }
            worst = std::max(worst, std::abs(c[i * (s.n + 3) + j] - sum) / size);
        }
        for (int64_t j = s.n; j < s.n + 3; ++j)
            if (c[i * (s.n + 3) + j] != 0.5f) return 1;  // written where it must not be
    }
    return worst;
}

// Around the tiles and blocks of both kernels.
const std::vector<Sizes> kSizes{{1, 1, 1},   {7, 47, 3},     {8, 48, 2},     {9, 49, 31},
                                {17, 5, 64}, {129, 33, 513}, {24, 481, 514}, {260, 70, 260}};

}  // namespace

TEST_CASE("a matmul is the sum of products, whatever lies how") {
    for (const Sizes& s : kSizes)
        for (int way = 0; way < 8; ++way) {
            INFO(s.m << " x " << s.n << " x " << s.k << ", way " << way);
            CHECK(error_of(s, way & 1, way & 2, false, false, way & 4, 1 + way % 3) < 1e-6);
        }
}

TEST_CASE("a narrow matmul is the sum of products of rounded operands") {
    if (!cpu_multiplies_bf16()) return;
    for (const Sizes& s : kSizes)
        for (int way = 0; way < 16; ++way) {
            INFO(s.m << " x " << s.n << " x " << s.k << ", way " << way);
            CHECK(error_of(s, way & 1, way & 2, true, way & 8, way & 4, 1 + way % 3) < 1e-6);
        }
}

TEST_CASE("a narrow matmul keeps what is not finite") {
    if (!cpu_multiplies_bf16()) return;
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        std::vector<float> a(16, 1.0f), b(16, 1.0f), c(16);
        a[5] = bad;
        multiply({.c = c.data(),
                  .stride = 4,
                  .a = {a.data(), 4},
                  .b = {b.data(), 4},
                  .m = 4,
                  .n = 4,
                  .k = 4,
                  .narrow = true});
        CHECK(c[0] == 4.0f);
        CHECK_FALSE(std::isfinite(c[4]));
    }
}
