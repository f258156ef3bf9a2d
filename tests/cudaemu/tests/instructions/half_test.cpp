// Arithmetic of f16, bf16 and their pairs against the formulas of the PTX ISA, 9.7.4.
#include "harness.h"
#include "numbers.h"

using namespace cudaemu;

namespace {

template <class T>
T minimum(T a, T b) {
    const double x = a.value(), y = b.value();
    if (std::isnan(x)) return b;
    if (std::isnan(y)) return a;
    if (x == y) return std::signbit(x) ? a : b;
    return x < y ? a : b;
}
template <class T>
T negative(T a) {
    return {uint16_t(a.bits ^ 0x8000)};
}
template <class T>
T maximum(T a, T b) {
    return negative(minimum(negative(a), negative(b)));
}
template <class T>
T strict(T a, T b, T otherwise) {
    if (std::isnan(a.value()) || std::isnan(b.value())) return T::of(std::nan(""));
    return otherwise;
}
template <class T>
T at_least_zero(T x) {
    return std::isnan(x.value()) || x.value() > 0 ? x : T{0};
}

// The values twice, the other half of the pair running against the first.
template <class T>
std::vector<Packed<T>> pairs_of(const std::vector<T>& values) {
    std::vector<Packed<T>> pairs;
    for (size_t i = 0; i < values.size(); ++i) {
        pairs.push_back({values[i], values[values.size() - 1 - (i * 5 + 3) % values.size()]});
    }
    return pairs;
}

// Checks "OP.TYPE" and "OP.TYPEx2".
template <class T, int target, class Formula>
void check_unary(const std::string& op, const std::string& type, Formula formula) {
    const auto values = short_values<T>();
    check_each<T, target>(op + "." + type + " %d, %a;", values, formula);
    check_each<Packed<T>, target>(op + "." + type + "x2 %d, %a;", pairs_of(values),
                                  [&](Packed<T> a) {
                                      return Packed<T>{formula(a.low), formula(a.high)};
                                  });
}
template <class T, int target, class Formula>
void check_binary(const std::string& op, const std::string& type, Formula formula) {
    const auto values = short_values<T>();
    check_pairs<T, target>(op + "." + type + " %d, %a, %b;", values, values, formula);
    check_pairs<Packed<T>, target>(
        op + "." + type + "x2 %d, %a, %b;", pairs_of(values), pairs_of(values),
        [&](Packed<T> a, Packed<T> b) {
            return Packed<T>{formula(a.low, b.low), formula(a.high, b.high)};
        });
}
template <class T, int target, class Formula>
void check_ternary(const std::string& op, const std::string& type, Formula formula) {
    const auto values = short_values<T>();
    check_triples<T, target>(op + "." + type + " %d, %a, %b, %c;", values, values, values, formula);
    check_triples<Packed<T>, target>(
        op + "." + type + "x2 %d, %a, %b, %c;", pairs_of(values), pairs_of(values),
        pairs_of(values), [&](Packed<T> a, Packed<T> b, Packed<T> c) {
            return Packed<T>{formula(a.low, b.low, c.low), formula(a.high, b.high, c.high)};
        });
}

template <class T, int target>
void check_arithmetic(const std::string& type) {
    const auto sum = [](T a, T b) { return T::of(a.value() + b.value()); };
    const auto difference = [](T a, T b) { return T::of(a.value() - b.value()); };
    const auto product = [](T a, T b) { return T::of(a.value() * b.value()); };
    check_binary<T, target>("add", type, sum);
    check_binary<T, target>("add.rn", type, sum);
    check_binary<T, target>("sub", type, difference);
    check_binary<T, target>("sub.rn", type, difference);
    check_binary<T, target>("mul", type, product);
    check_binary<T, target>("mul.rn", type, product);
}

template <class T>
void check_common(const std::string& type) {
    const auto fused = [](T a, T b, T c) {
        return T::of(std::fma(a.value(), b.value(), c.value()));
    };
    check_ternary<T, 80>("fma.rn", type, fused);
    check_ternary<T, 80>("fma.rn.relu", type,
                         [&](T a, T b, T c) { return at_least_zero(fused(a, b, c)); });
    check_unary<T, 80>("neg", type, negative<T>);
    check_unary<T, 80>("abs", type, [](T a) { return T{uint16_t(a.bits & 0x7fff)}; });
    check_binary<T, 80>("min", type, minimum<T>);
    check_binary<T, 80>("max", type, maximum<T>);
    check_binary<T, 80>("min.NaN", type, [](T a, T b) { return strict(a, b, minimum(a, b)); });
    check_binary<T, 80>("max.NaN", type, [](T a, T b) { return strict(a, b, maximum(a, b)); });
}

// Within so many last digits of the format.
template <class T, int target>
void check_near(const std::string& body, double (*formula)(double), double from, double to) {
    std::vector<T> values;
    for (int i = 0; i <= 64; ++i) values.push_back(T::of(from + (to - from) * i / 64));
    check_lanes_with<T, target>(
        body, [&](T a) { return T::of(formula(a.value())); },
        [](T got, T expected) { return std::abs(int(got.bits) - int(expected.bits)) <= 2; },
        values);
}

}  // namespace

TEST_CASE("f16 arithmetic", "[cuda]") {
    check_arithmetic<Half, 80>("f16");
    check_common<Half>("f16");
    const auto saturated = [](Half a, Half b, Half c) {
        const double x = std::fma(a.value(), b.value(), c.value());
        return std::isnan(x) || x <= 0 ? Half{0} : Half::of(std::min(x, 1.0));
    };
    check_ternary<Half, 80>("fma.rn.sat", "f16", saturated);
}

TEST_CASE("bf16 arithmetic", "[cuda]") {
    check_common<BFloat16>("bf16");
    // Plain sums and products came with sm_90.
    check_arithmetic<BFloat16, 90>("bf16");
}

TEST_CASE("f16 and bf16 approximations lie near the function", "[cuda]") {
    check_near<Half, 80>(
        "ex2.approx.f16 %d, %a;", [](double x) { return std::exp2(x); }, -8, 8);
    check_near<Half, 80>(
        "tanh.approx.f16 %d, %a;", [](double x) { return std::tanh(x); }, -3, 3);
    check_near<BFloat16, 90>(
        "ex2.approx.ftz.bf16 %d, %a;", [](double x) { return std::exp2(x); }, -8, 8);
    check_near<BFloat16, 90>(
        "tanh.approx.bf16 %d, %a;", [](double x) { return std::tanh(x); }, -3, 3);
}

TEST_CASE("f16 and bf16 compare as numbers", "[cuda]") {
    const auto compare = [](auto type, const std::string& body, auto formula) {
        using T = decltype(type);
        check_pairs<uint32_t, 90>(
            ".reg .pred %p;\n" + body + "\nselp.u32 %d, 1, 0, %p;", short_values<T>(),
            short_values<T>(), [&](T a, T b) { return uint32_t(formula(a.value(), b.value())); });
    };
    const auto both = [&](const std::string& op, auto formula) {
        compare(Half{}, "setp." + op + ".f16 %p, %a, %b;", formula);
        compare(BFloat16{}, "setp." + op + ".bf16 %p, %a, %b;", formula);
    };
    both("eq", [](double a, double b) { return a == b; });
    both("ne", [](double a, double b) { return a < b || a > b; });
    both("lt", [](double a, double b) { return a < b; });
    both("le", [](double a, double b) { return a <= b; });
    both("gt", [](double a, double b) { return a > b; });
    both("ge", [](double a, double b) { return a >= b; });
    both("neu", [](double a, double b) { return !(a == b); });
    both("ltu", [](double a, double b) { return !(a >= b); });
    both("nan", [](double a, double b) { return std::isnan(a) || std::isnan(b); });

    // One predicate for each half of a pair.
    const auto values = pairs_of(short_values<Half>());
    check_pairs<uint32_t>(
        ".reg .pred %p, %q;\n.reg .b32 %x, %y;\n"
        "setp.lt.f16x2 %p|%q, %a, %b;\n"
        "selp.u32 %x, 1, 0, %p;\nselp.u32 %y, 2, 0, %q;\nor.b32 %d, %x, %y;",
        values, values, [](Packed<Half> a, Packed<Half> b) {
            return uint32_t(a.low.value() < b.low.value()) +
                   2 * uint32_t(a.high.value() < b.high.value());
        });
    check_pairs<Packed<BFloat16>, 90>(
        "set.gt.bf16x2.bf16x2 %d, %a, %b;", pairs_of(short_values<BFloat16>()),
        pairs_of(short_values<BFloat16>()), [](Packed<BFloat16> a, Packed<BFloat16> b) {
            return Packed<BFloat16>{BFloat16::of(a.low.value() > b.low.value()),
                                    BFloat16::of(a.high.value() > b.high.value())};
        });
}
