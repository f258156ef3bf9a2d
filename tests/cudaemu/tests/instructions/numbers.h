// Float formats of PTX as formulas: rounding of a double to so many digits, not bit tricks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace cudaemu {

enum class Rounding { nearest_even, nearest_away, zero, down, up };

struct Format {
    int digits;        // significant bits
    int min_exponent;  // of the smallest normal number: 2^min_exponent
    int max_exponent;  // of the largest
};
inline constexpr Format kHalf{11, -14, 15}, kBFloat16{8, -126, 127}, kTf32{11, -126, 127},
    kFloat{24, -126, 127};

inline double round_integer(double x, Rounding mode) {
    switch (mode) {
        case Rounding::nearest_even: {
            const double low = std::floor(x), rest = x - low;
            if (rest != 0.5) return std::copysign(rest < 0.5 ? low : low + 1, x);
            return std::copysign(std::fmod(low, 2) == 0 ? low : low + 1, x);
        }
        case Rounding::nearest_away:
            return std::copysign(std::floor(std::abs(x) + 0.5), x);
        case Rounding::zero:
            return std::trunc(x);
        case Rounding::down:
            return std::floor(x);
        case Rounding::up:
            return std::ceil(x);
    }
    return x;
}

// The value of the format that x rounds to; x is exact.
inline double round_to(double x, const Format& format, Rounding mode = Rounding::nearest_even) {
    if (x == 0 || !std::isfinite(x)) return x;
    int exponent;  // |x| in [2^(exponent - 1), 2^exponent)
    std::frexp(x, &exponent);
    const int step = std::max(exponent - 1, format.min_exponent) - (format.digits - 1);
    const double rounded = std::ldexp(round_integer(std::ldexp(x, -step), mode), step);
    const double largest = std::ldexp(2 - std::ldexp(1, 1 - format.digits), format.max_exponent);
    if (std::abs(rounded) <= largest) return rounded;
    const bool to_largest = mode == Rounding::zero || (mode == Rounding::down && x > 0) ||
                            (mode == Rounding::up && x < 0);
    return std::copysign(to_largest ? largest : std::numeric_limits<double>::infinity(), x);
}

// A 16-bit float: a sign, the exponent, digits - 1 bits of mantissa.
template <const Format& format>
struct Short {
    uint16_t bits = 0;

    static constexpr int kMantissa = format.digits - 1;

    double value() const {
        const int exponent = (bits & 0x7fff) >> kMantissa, mantissa = bits & ((1 << kMantissa) - 1);
        const int special = 0x7fff >> kMantissa;
        double x;
        if (exponent == special) {
            x = mantissa ? std::numeric_limits<double>::quiet_NaN()
                         : std::numeric_limits<double>::infinity();
        } else if (exponent == 0) {
            x = std::ldexp(mantissa, format.min_exponent - kMantissa);
        } else {
            x = std::ldexp((1 << kMantissa) + mantissa,
                           exponent - 1 + format.min_exponent - kMantissa);
        }
        return bits & 0x8000 ? -x : x;
    }

    // Searches for the bits, as the values of positive numbers grow with them.
    static Short of(double x, Rounding mode = Rounding::nearest_even) {
        if (std::isnan(x)) return {0x7fff};
        const double rounded = std::abs(round_to(x, format, mode));
        uint16_t low = 0, high = 0x7fff >> kMantissa << kMantissa;
        while (low < high) {
            const uint16_t middle = (low + high) / 2;
            if (Short{middle}.value() < rounded) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return {uint16_t(low | (std::signbit(x) ? 0x8000 : 0))};
    }
};
using Half = Short<kHalf>;
using BFloat16 = Short<kBFloat16>;

template <const Format& format>
bool same(const Short<format>& x, const Short<format>& y) {
    return x.bits == y.bits || (std::isnan(x.value()) && std::isnan(y.value()));
}

template <class To, class From>
To bit_copy(const From& x) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &x, sizeof(to));
    return to;
}

// Subnormal numbers become zeros of their sign (.ftz).
inline float flushed(float x) {
    return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}

// Zeros, ordinary, subnormal, extreme and special values.
inline std::vector<float> float_values() {
    const float nan = std::numeric_limits<float>::quiet_NaN(),
                inf = std::numeric_limits<float>::infinity();
    return {0.0f,     -0.0f,   1.0f,      -1.0f,          0.1f,    -0.3f,   2.5f, 3.5f,
            -4.5f,    100.25f, 1e-3f,     -7e8f,          1.5e30f, 3.3e38f, inf,  -inf,
            1.5e-30f, 1e-39f,  -1.2e-40f, 1.1754944e-38f, 1e-45f,  nan};
}

template <class T>
std::vector<T> short_values() {
    std::vector<T> values;
    for (double x :
         {0.0, -0.0, 1.0, -1.0, 0.1, -0.3, 2.5, 3.5, -4.5, 100.25, 1e-3, -300.0, 4e4, 6e-5, 3e-6,
          std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
          std::numeric_limits<double>::quiet_NaN()}) {
        values.push_back(T::of(x));
    }
    return values;
}

}  // namespace cudaemu
