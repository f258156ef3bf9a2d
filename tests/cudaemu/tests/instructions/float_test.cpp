// Arithmetic of f32 and f64 against the formulas of the PTX ISA, 9.7.3.
#include "harness.h"
#include "numbers.h"

using namespace cudaemu;

namespace {

const std::vector<float> kFloats = float_values();
const float kNan = std::numeric_limits<float>::quiet_NaN(),
            kInfinity = std::numeric_limits<float>::infinity();

std::vector<double> double_values() {
    std::vector<double> values(kFloats.begin(), kFloats.end());
    values.insert(values.end(), {0.1, -1e200, 3e-310, 1e308});
    return values;
}

template <class T>
T minimum(T a, T b) {  // -0 lies below +0; NaN only when both are
    if (std::isnan(a)) return b;
    if (std::isnan(b)) return a;
    if (a == b) return std::signbit(a) ? a : b;
    return a < b ? a : b;
}
template <class T>
T maximum(T a, T b) {
    return -minimum(-a, -b);
}

// a b + c with one rounding that is not to nearest; quadruple precision holds it exactly.
float fused(float a, float b, float c, Rounding mode) {
    const __float128 exact = __float128(a) * b + c;
    if (exact == 0) {
        // A sum of opposite numbers is -0 when rounding down; zeros of one sign keep it.
        const bool negative_product = std::signbit(a) != std::signbit(b);
        if (a * b == 0 && c == 0 && negative_product == std::signbit(c)) return c;
        return mode == Rounding::down ? -0.0f : 0.0f;
    }
    const bool down = mode == Rounding::down || (mode == Rounding::zero && exact > 0);
    float result = float(exact);
    while (down ? result > exact : result < exact) {
        result = std::nextafter(result, down ? -kInfinity : kInfinity);
    }
    return result;
}

// Close to so many parts of the exact value; special values and signs must agree.
struct Close {
    double relative, absolute = 0;
    bool operator()(float got, float expected) const {
        if (!std::isfinite(expected) || expected == 0) {
            return same(got, expected) || (absolute > 0 && std::abs(got - expected) <= absolute);
        }
        return std::abs(double(got) - expected) <= relative * std::abs(double(expected)) + absolute;
    }
};

void check_near(const std::string& body, const std::vector<float>& values, Close close,
                double (*formula)(double)) {
    check_lanes_with<float>(
        body, [&](float x) { return float(formula(x)); }, close, values);
}

std::vector<float> grid(float from, float to, int count) {
    std::vector<float> values;
    for (int i = 0; i < count; ++i) values.push_back(from + (to - from) * i / (count - 1));
    return values;
}

}  // namespace

TEST_CASE("f32 sums, products and fused products", "[cuda]") {
    for (const char* mode : {"add.f32", "add.rn.f32"}) {
        check_pairs<float>(std::string(mode) + " %d, %a, %b;", kFloats, kFloats,
                           [](float a, float b) { return a + b; });
    }
    check_pairs<float>("sub.f32 %d, %a, %b;", kFloats, kFloats,
                       [](float a, float b) { return a - b; });
    check_pairs<float>("sub.rn.f32 %d, %a, %b;", kFloats, kFloats,
                       [](float a, float b) { return a - b; });
    check_pairs<float>("mul.f32 %d, %a, %b;", kFloats, kFloats,
                       [](float a, float b) { return a * b; });
    check_pairs<float>("mul.rn.f32 %d, %a, %b;", kFloats, kFloats,
                       [](float a, float b) { return a * b; });
    check_triples<float>("fma.rn.f32 %d, %a, %b, %c;", kFloats, kFloats, kFloats,
                         [](float a, float b, float c) { return std::fmaf(a, b, c); });
    check_triples<float>("mad.rn.f32 %d, %a, %b, %c;", kFloats, kFloats, kFloats,
                         [](float a, float b, float c) { return std::fmaf(a, b, c); });
    check_each<float>("mul.f32 %d, %a, 0f40490FDB;", kFloats,
                      [](float a) { return a * bit_copy<float>(0x40490fdb); });
}

TEST_CASE("f32 flushes subnormal operands and results with .ftz", "[cuda]") {
    const auto f = flushed;
    check_pairs<float>("add.ftz.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return f(f(a) + f(b)); });
    check_pairs<float>("sub.ftz.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return f(f(a) - f(b)); });
    check_pairs<float>("mul.ftz.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return f(f(a) * f(b)); });
    check_triples<float>("fma.rn.ftz.f32 %d, %a, %b, %c;", kFloats, kFloats, kFloats,
                         [&](float a, float b, float c) { return f(std::fmaf(f(a), f(b), f(c))); });
    check_each<float>("neg.ftz.f32 %d, %a;", kFloats, [&](float a) { return -f(a); });
    check_each<float>("abs.ftz.f32 %d, %a;", kFloats, [&](float a) { return std::abs(f(a)); });
    check_pairs<float>("min.ftz.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return minimum(f(a), f(b)); });
    check_pairs<float>("max.ftz.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return maximum(f(a), f(b)); });
}

TEST_CASE("f32 saturates to 0..1 with .sat", "[cuda]") {
    const auto clamp = [](float x) { return std::isnan(x) || x <= 0 ? 0.0f : std::min(x, 1.0f); };
    check_pairs<float>("add.sat.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return clamp(a + b); });
    check_pairs<float>("mul.sat.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return clamp(a * b); });
    check_triples<float>("fma.rn.sat.f32 %d, %a, %b, %c;", kFloats, kFloats, kFloats,
                         [&](float a, float b, float c) { return clamp(std::fmaf(a, b, c)); });
}

TEST_CASE("f32 rounds to zero, down and up", "[cuda]") {
    const std::vector<float> values = {0.0f,      1.0f, -1.0f, 0.1f,        -0.3f,      1e-3f, 7.7f,
                                       -123.456f, 1e5f, -3e7f, 12582913.0f, 1.4426950f, -0.0f};
    const auto check = [&](const std::string& name, Rounding mode) {
        const auto text = [&](const std::string& body) { return with(body, "MODE", name); };
        check_pairs<float>(text("add.MODE.f32 %d, %a, %b;"), values, values,
                           [&](float a, float b) { return fused(1, a, b, mode); });
        check_pairs<float>(text("sub.MODE.f32 %d, %a, %b;"), values, values,
                           [&](float a, float b) { return fused(1, a, -b, mode); });
        // The zero that is added has the sign of the product and does not change it.
        check_pairs<float>(text("mul.MODE.f32 %d, %a, %b;"), values, values, [&](float a, float b) {
            return fused(a, b, std::copysign(0.0f, a * b), mode);
        });
        check_triples<float>(text("fma.MODE.f32 %d, %a, %b, %c;"), values, values, values,
                             [&](float a, float b, float c) { return fused(a, b, c, mode); });
    };
    check("rz", Rounding::zero);
    check("rm", Rounding::down);
    check("rp", Rounding::up);
}

TEST_CASE("f32 quotients and roots round to nearest", "[cuda]") {
    check_pairs<float>("div.rn.f32 %d, %a, %b;", kFloats, kFloats,
                       [](float a, float b) { return a / b; });
    check_each<float>("rcp.rn.f32 %d, %a;", kFloats, [](float a) { return 1 / a; });
    check_each<float>("sqrt.rn.f32 %d, %a;", kFloats, [](float a) { return std::sqrt(a); });
    check_each<float>("sqrt.rn.ftz.f32 %d, %a;", kFloats,
                      [](float a) { return std::sqrt(flushed(a)); });
    check_pairs<float>("div.rn.ftz.f32 %d, %a, %b;", kFloats, kFloats,
                       [](float a, float b) { return flushed(flushed(a) / flushed(b)); });
}

TEST_CASE("f32 approximations lie near the function", "[cuda]") {
    const std::vector<float> positive = {1.0f,  0.1f,   2.5f, 3.5f,   100.25f, 1e-3f,   1.5e30f,
                                         0.99f, 1.001f, 7e8f, 1e-30f, 3.3e37f, 1.2e-38f};
    std::vector<float> any = positive;
    for (float x : positive) any.push_back(-x);
    const std::vector<float> special = {0.0f, -0.0f, kInfinity, -kInfinity, kNan};
    any.insert(any.end(), special.begin(), special.end());
    std::vector<float> roots = positive;
    roots.insert(roots.end(), special.begin(), special.end());
    roots.push_back(-1);

    for (const std::string ftz : {"", ".ftz"}) {
        // 1 / 3.3e37 is normal, 1 / 1.2e-38 does not overflow.
        check_near("rcp.approx" + ftz + ".f32 %d, %a;", any, {2e-7},
                   [](double x) { return 1 / x; });
        check_near("sqrt.approx" + ftz + ".f32 %d, %a;", roots, {3e-7},
                   [](double x) { return std::sqrt(x); });
        check_near("rsqrt.approx" + ftz + ".f32 %d, %a;", roots, {4e-7}, [](double x) {
            return x < 0 ? std::nan("") : std::copysign(1 / std::sqrt(std::abs(x)), x);
        });
        check_near("lg2.approx" + ftz + ".f32 %d, %a;", roots, {3e-7, 3e-7},
                   [](double x) { return std::log2(std::abs(x) == 0 ? 0 : x); });
        check_near("ex2.approx" + ftz + ".f32 %d, %a;", grid(-125, 127, 100), {3e-7},
                   [](double x) { return std::exp2(x); });
        check_near("ex2.approx" + ftz + ".f32 %d, %a;", special, {3e-7},
                   [](double x) { return std::exp2(x); });
        check_near("sin.approx" + ftz + ".f32 %d, %a;", grid(-3.1f, 3.1f, 64), {0, 2e-6},
                   [](double x) { return std::sin(x); });
        check_near("cos.approx" + ftz + ".f32 %d, %a;", grid(-3.1f, 3.1f, 64), {0, 2e-6},
                   [](double x) { return std::cos(x); });
    }
    CHECK(run_lanes<float>("ex2.approx.ftz.f32 %d, %a;", std::vector<float>{-140})[0] == 0);
    CHECK(run_lanes<float>("ex2.approx.f32 %d, %a;", std::vector<float>{-140})[0] ==
          Approx(std::exp2(-140.0)));
    check_near("tanh.approx.f32 %d, %a;", grid(-12, 12, 101), {6e-4},
               [](double x) { return std::tanh(x); });
    check_near("tanh.approx.f32 %d, %a;", special, {6e-4}, [](double x) { return std::tanh(x); });

    const std::vector<float> moderate = {1.0f, -0.1f, 2.5f, 3.5f, -100.25f, 1e-3f, 7e8f, 1e30f};
    for (const char* form :
         {"div.approx.f32", "div.approx.ftz.f32", "div.full.f32", "div.full.ftz.f32"}) {
        std::vector<float> a, b;
        for (float x : moderate) {
            for (float y : moderate) a.push_back(x), b.push_back(y);
        }
        check_lanes_with<float>(
            std::string(form) + " %d, %a, %b;",
            [](float x, float y) { return float(double(x) / y); }, Close{4e-7}, a, b);
    }
}

TEST_CASE("f32 minimum and maximum prefer numbers, and NaN with .NaN", "[cuda]") {
    check_pairs<float>("min.f32 %d, %a, %b;", kFloats, kFloats, minimum<float>);
    check_pairs<float>("max.f32 %d, %a, %b;", kFloats, kFloats, maximum<float>);
    const auto either = [](float a, float b) { return std::isnan(a) || std::isnan(b); };
    check_pairs<float>("min.NaN.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return either(a, b) ? kNan : minimum(a, b); });
    check_pairs<float>("max.NaN.f32 %d, %a, %b;", kFloats, kFloats,
                       [&](float a, float b) { return either(a, b) ? kNan : maximum(a, b); });
    // A NaN that an operation makes is the canonical one.
    CHECK(run_lanes<uint32_t>("max.f32 %d, %a, %b;", std::vector<uint32_t>{0x7fa00001},
                              std::vector<uint32_t>{0x7fa00002})[0] == 0x7fffffff);
}

TEST_CASE("signs and classes of f32", "[cuda]") {
    check_each<float>("neg.f32 %d, %a;", kFloats, [](float a) { return -a; });
    check_each<float>("abs.f32 %d, %a;", kFloats, [](float a) { return std::abs(a); });
    // The sign is that of the first operand, the magnitude that of the second.
    check_pairs<float>("copysign.f32 %d, %a, %b;", kFloats, kFloats,
                       [](float a, float b) { return std::copysign(b, a); });
    const auto is = [&](const std::string& kind, auto formula) {
        check_each<uint32_t>(
            ".reg .pred %p;\ntestp." + kind + ".f32 %p, %a;\nselp.u32 %d, 1, 0, %p;", kFloats,
            [&](float x) { return uint32_t(formula(x)); });
    };
    is("finite", [](float x) { return std::isfinite(x); });
    is("infinite", [](float x) { return std::isinf(x); });
    is("number", [](float x) { return !std::isnan(x); });
    is("notanumber", [](float x) { return std::isnan(x); });
    is("normal", [](float x) { return std::isnormal(x) || x == 0; });  // zero counts as normal
    is("subnormal", [](float x) { return std::fpclassify(x) == FP_SUBNORMAL; });
}

TEST_CASE("f64 arithmetic", "[cuda]") {
    const std::vector<double> values = double_values();
    check_pairs<double>("add.f64 %d, %a, %b;", values, values,
                        [](double a, double b) { return a + b; });
    check_pairs<double>("add.rn.f64 %d, %a, %b;", values, values,
                        [](double a, double b) { return a + b; });
    check_pairs<double>("sub.f64 %d, %a, %b;", values, values,
                        [](double a, double b) { return a - b; });
    check_pairs<double>("mul.f64 %d, %a, %b;", values, values,
                        [](double a, double b) { return a * b; });
    check_pairs<double>("mul.rn.f64 %d, %a, %b;", values, values,
                        [](double a, double b) { return a * b; });
    check_pairs<double>("div.rn.f64 %d, %a, %b;", values, values,
                        [](double a, double b) { return a / b; });
    check_triples<double>("fma.rn.f64 %d, %a, %b, %c;", values, values, values,
                          [](double a, double b, double c) { return std::fma(a, b, c); });
    check_pairs<double>("min.f64 %d, %a, %b;", values, values, minimum<double>);
    check_pairs<double>("max.f64 %d, %a, %b;", values, values, maximum<double>);
    check_each<double>("sqrt.rn.f64 %d, %a;", values, [](double a) { return std::sqrt(a); });
    check_each<double>("rcp.rn.f64 %d, %a;", values, [](double a) { return 1 / a; });
    check_each<double>("neg.f64 %d, %a;", values, [](double a) { return -a; });
    check_each<double>("abs.f64 %d, %a;", values, [](double a) { return std::abs(a); });
    check_pairs<double>("copysign.f64 %d, %a, %b;", values, values,
                        [](double a, double b) { return std::copysign(b, a); });
}
