// The CPU backend's matmul against sums in f64.
#include "ops/cpu/matmul.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "ops/backend.h"
#include "ops/cpu/elements.h"
#include "ops/cpu/tile_registers.h"

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
    MatmulOperand as(bool narrow, int64_t stride, bool transposed) const {
        if (narrow) return {rounded.data(), stride, transposed};
        return {values.data(), stride, transposed};
    }
};

struct Sizes {
    int64_t m, n, k;
};

// How the operands lie, and which tensors are bf16.
struct Way {
    bool a_turned, b_turned, accumulate, stream, whole_lines;
    bool narrow_a, narrow_b, narrow_c;

    static Way of(int number, bool narrow_a, bool narrow_b, bool narrow_c) {
        return {bool(number & 1), bool(number & 2), bool(number & 4), number >= 8,
                number < 16,      narrow_a,         narrow_b,         narrow_c};
    }
};

using Multiply = void (*)(const Matmul&);

// Largest error over the sum of the absolute products.
template <class T>
double error_of(Multiply multiply, const Sizes& s, const Way& way, int parts) {
    const Operand a(1, s.m * s.k), b(2, s.k * s.n);
    const int64_t a_stride = way.a_turned ? s.m : s.k, b_stride = way.b_turned ? s.k : s.n;
    // Rows of whole cache lines can be streamed; those that begin off a line must be stored.
    const int64_t stride = way.stream ? whole_vectors(s.n + 1) : s.n + 3;
    std::vector<T> memory(s.m * stride + 64, rounded<T>(0.5f));
    T* c = memory.data();
    if (way.stream)
        while (reinterpret_cast<uintptr_t>(c) % 64 != 0) ++c;
    if (!way.whole_lines) ++c;
    const Matmul whole{.c = c,
                       .stride = stride,
                       .a = a.as(way.narrow_a, a_stride, way.a_turned),
                       .b = b.as(way.narrow_b, b_stride, way.b_turned),
                       .m = s.m,
                       .n = s.n,
                       .k = s.k,
                       .accumulate = way.accumulate,
                       .stream = way.stream};
    for (int part = 0; part < parts; ++part) multiply(whole.share(part, parts));
    double worst = 0;
    for (int64_t i = 0; i < s.m; ++i) {
        for (int64_t j = 0; j < s.n; ++j) {
            double sum = way.accumulate ? 0.5 : 0.0, size = 1;
            for (int64_t p = 0; p < s.k; ++p) {
                const double product =
                    a.at(way.a_turned ? p * s.m + i : i * s.k + p, way.narrow_a) *
                    b.at(way.b_turned ? j * s.k + p : p * s.n + j, way.narrow_b);
                sum += product;
                size += std::abs(product);
            }
            // A result in bf16 lies half a unit of its last place off, at most.
            const double rounding = std::is_same_v<T, bf16> ? std::abs(sum) / 256 : 0;
            const double error = std::abs(to_f32(c[i * stride + j]) - sum);
            worst = std::max(worst, std::max(0.0, error - rounding) / size);
        }
        for (int64_t j = s.n; j < stride; ++j)
            if (to_f32(c[i * stride + j]) != 0.5f) return 1;  // written where it must not be
    }
    return worst;
}

// Around the tiles and blocks of all kernels.
const std::vector<Sizes> kSizes{{1, 1, 1},      {7, 47, 3},     {8, 48, 2},     {9, 49, 31},
                                {17, 5, 64},    {129, 33, 513}, {24, 481, 514}, {260, 70, 260},
                                {37, 50, 2051}, {16, 32, 32},   {33, 31, 63},   {65, 17, 1057},
                                {40, 300, 2051}};

}  // namespace

TEST_CASE("a matmul is the sum of products, whatever lies how and in which dtype") {
    for (const Sizes& s : kSizes)
        for (int number = 0; number < 24; ++number)
            for (int dtypes = 0; dtypes < 8; ++dtypes) {
                const Way way = Way::of(number, dtypes & 1, dtypes & 2, dtypes & 4);
                INFO(s.m << " x " << s.n << " x " << s.k << ", way " << number << ", dtypes "
                         << dtypes);
                const int parts = 1 + number % 3;
                const auto error = way.narrow_c ? error_of<bf16> : error_of<float>;
                CHECK(error(multiply, s, way, parts) < 1e-6);
                if (!way.narrow_a || !way.narrow_b) continue;
                if (cpu_multiplies_bf16()) CHECK(error(multiply_narrow, s, way, 1) < 1e-6);
                if (cpu_has_tiles()) CHECK(error(multiply_tiles, s, way, 1) < 1e-6);
            }
}

TEST_CASE("a narrow matmul keeps what is not finite") {
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        std::vector<bf16> a(16, to_bf16(1.0f)), b = a, c(16);
        a[5] = to_bf16(bad);
        multiply({.c = c.data(),
                  .stride = 4,
                  .a = {a.data(), 4},
                  .b = {b.data(), 4},
                  .m = 4,
                  .n = 4,
                  .k = 4});
        CHECK(to_f32(c[0]) == 4.0f);
        CHECK_FALSE(std::isfinite(to_f32(c[4])));
    }
}
