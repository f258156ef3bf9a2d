// Arithmetic of f32 and f64. PTX ISA 9.7.3.
#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/rounding.h"

namespace cudaemu {
namespace {

template <class T, bool ftz, bool sat>
T finish(T value) {
    if constexpr (std::is_same_v<T, float>) value = flush<ftz>(value);
    return sat ? saturate(value) : canonical(value);
}

template <bool ftz>
double input(double value) {
    return value;
}
template <bool ftz>
float input(float value) {
    return flush<ftz>(value);
}

// Round to nearest.
template <class T, bool ftz, bool sat>
std::optional<Semantics> nearest(std::string_view opcode) {
    static constexpr auto in = [](T x) { return input<ftz>(x); };
    static constexpr auto out = [](T x) { return finish<T, ftz, sat>(x); };
    if (opcode == "add") return lanewise<[](T a, T b) { return out(in(a) + in(b)); }>();
    if (opcode == "sub") return lanewise<[](T a, T b) { return out(in(a)-in(b)); }>();
    if (opcode == "mul") return lanewise<[](T a, T b) { return out(in(a)*in(b)); }>();
    if (opcode == "div") return lanewise<[](T a, T b) { return out(in(a) / in(b)); }>();
    if (opcode == "fma" || opcode == "mad")
        return lanewise<[](T a, T b, T c) { return out(std::fma(in(a), in(b), in(c))); }>();
    return std::nullopt;
}

// Another rounding, of f32: the exact result to odd in double, then rounded.
template <Rounding rounding, bool ftz, bool sat>
std::optional<Semantics> directed(std::string_view opcode) {
    static constexpr auto in = [](float x) -> double { return input<ftz>(x); };
    static constexpr auto out = [](double x) {
        return finish<float, ftz, sat>(round_to_float(x, rounding));
    };
    // Zeros of opposite signs, and numbers that cancel, give -0 when rounding down.
    static constexpr auto sum = [](double a, double b) {
        const double s = add_to_odd(a, b);
        const bool minus = rounding == Rounding::rm && s == 0 && std::signbit(a) != std::signbit(b);
        return out(minus ? -0.0 : s);
    };
    if (opcode == "add") return lanewise<[](float a, float b) { return sum(in(a), in(b)); }>();
    if (opcode == "sub") return lanewise<[](float a, float b) { return sum(in(a), -in(b)); }>();
    if (opcode == "mul") return lanewise<[](float a, float b) { return out(in(a)*in(b)); }>();
    if (opcode == "div")
        return lanewise<[](float a, float b) { return out(divide_to_odd(in(a), in(b))); }>();
    if (opcode == "fma" || opcode == "mad")
        return lanewise<[](float a, float b, float c) { return sum(in(a)*in(b), in(c)); }>();
    return std::nullopt;
}

// The smaller and the larger of equal numbers, which may be -0 and +0.
template <class T>
T smaller_zero(T a, T b) {
    return std::bit_cast<T>(std::bit_cast<Cell<T>>(a) | std::bit_cast<Cell<T>>(b));
}
template <class T>
T larger_zero(T a, T b) {
    return std::bit_cast<T>(std::bit_cast<Cell<T>>(a) & std::bit_cast<Cell<T>>(b));
}

// A NaN yields to a number, unless .NaN asks for it. -0 is less than +0.
template <class T, bool ftz, bool nan>
std::optional<Semantics> extremes(std::string_view opcode) {
    static constexpr auto in = [](T x) { return input<ftz>(x); };
    static constexpr auto unordered = [](T a, T b) { return canonical(nan || b != b ? a + b : b); };
    if (opcode == "min")
        return lanewise<[](T x, T y) {
            const T a = in(x), b = in(y);
            const T numbers = a < b ? a : b < a ? b : smaller_zero(a, b);
            return a != a ? unordered(a, b) : b != b ? unordered(b, a) : numbers;
        }>();
    return lanewise<[](T x, T y) {
        const T a = in(x), b = in(y);
        const T numbers = b < a ? a : a < b ? b : larger_zero(a, b);
        return a != a ? unordered(a, b) : b != b ? unordered(b, a) : numbers;
    }>();
}

template <class T, bool ftz>
std::optional<Semantics> signs(std::string_view opcode) {
    if (opcode == "neg") return lanewise<[](T a) { return -input<ftz>(a); }>();
    return lanewise<[](T a) { return std::fabs(input<ftz>(a)); }>();
}

template <class T>
std::optional<Semantics> typed(Form& form) {
    const std::string_view opcode = form.opcode();
    const bool ftz = std::is_same_v<T, float> && form.take("ftz");
    const bool is_double = std::is_same_v<T, double>;
    if (opcode == "neg" || opcode == "abs")
        return ftz ? signs<T, true>(opcode) : signs<T, false>(opcode);
    if (opcode == "min" || opcode == "max") {
        const bool nan = !is_double && form.take("NaN");
        return choose([&]<bool f, bool n>() { return extremes<T, f, n>(opcode); }, ftz, nan);
    }
    const bool sat = !is_double && form.take("sat");
    // div.approx and div.full: the correctly rounded quotient is within their bounds.
    const bool approximate = opcode == "div" && form.take_any({"approx", "full"}) >= 0;
    const std::optional<Rounding> rounding = take_rounding(form);
    if ((opcode == "fma" || opcode == "mad" || (opcode == "div" && !approximate)) && !rounding)
        return std::nullopt;
    if (rounding.value_or(Rounding::rn) == Rounding::rn)
        return choose([&]<bool f, bool s>() { return nearest<T, f, s>(opcode); }, ftz, sat);
    if (is_double) return std::nullopt;
    return choose(
        [&]<bool f, bool s>() {
            return *rounding == Rounding::rz   ? directed<Rounding::rz, f, s>(opcode)
                   : *rounding == Rounding::rm ? directed<Rounding::rm, f, s>(opcode)
                                               : directed<Rounding::rp, f, s>(opcode);
        },
        ftz, sat);
}

}  // namespace

std::optional<Semantics> decode_float(Form& form) {
    const Type type = form.take_type();
    std::optional<Semantics> semantics =
        type == Type::f32 ? typed<float>(form) : typed<double>(form);
    if (semantics) semantics->literal = type;
    return semantics;
}

}  // namespace cudaemu
