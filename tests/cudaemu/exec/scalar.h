// Number formats that C++ lacks, and rounding to any format.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace cudaemu {

// Nearest even, toward zero, down, up, nearest with ties away from zero.
enum class Rounding : uint8_t { rn, rz, rm, rp, rna };

// The bits of `value`, rounded to a format with `mantissa` stored bits and `exponent` bits, IEEE
// style with infinities; NaN becomes the NaN of all ones without sign.
uint64_t encode(double value, int mantissa, int exponent, Rounding rounding);

// `value`, or, where `error` (what it lacks) is not zero, the neighbour with an odd last bit.
inline double nudge_to_odd(double value, double error) {
    const auto bits = std::bit_cast<uint64_t>(value);
    const bool finite = std::fabs(value) <= std::numeric_limits<double>::max();
    const bool even = finite && (error < 0 || error > 0) && !(bits & 1);
    const uint64_t odd = (error > 0) == (value > 0) ? bits + 1 : bits - 1;
    const double beside_zero = error > 0 ? std::bit_cast<double>(uint64_t{1})
                                         : std::bit_cast<double>(uint64_t{1} | uint64_t{1} << 63);
    return !even ? value : value == 0 ? beside_zero : std::bit_cast<double>(odd);
}

// The double nearest to a + b, or, where that is inexact, the neighbour with an odd last bit: so
// that rounding it again to at most 51 bits gives what rounding the exact sum would.
inline double add_to_odd(double a, double b) {
    const double sum = a + b;
    const double part = sum - a;
    return nudge_to_odd(sum, (a - (sum - part)) + (b - part));
}

// Likewise a float near a double.
inline float float_to_odd(double value) {
    const auto nearest = static_cast<float>(value);
    const auto bits = std::bit_cast<uint32_t>(nearest);
    const double back = std::fabs(static_cast<double>(nearest)), magnitude = std::fabs(value);
    const bool even = (back < magnitude || back > magnitude) && !(bits & 1);
    return !even ? nearest : std::bit_cast<float>(back < magnitude ? bits + 1 : bits - 1);
}

// float from double with a rounding of PTX.
inline float round_to_float(double value, Rounding rounding) {
    return rounding == Rounding::rn
               ? static_cast<float>(value)
               : std::bit_cast<float>(static_cast<uint32_t>(encode(value, 23, 8, rounding)));
}

struct Bf16 {
    uint16_t bits = 0;

    operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
    static Bf16 from_float(float value) {
        const auto x = std::bit_cast<uint32_t>(value);
        const uint32_t rounded = (x + 0x7fff + (x >> 16 & 1)) >> 16;
        return {static_cast<uint16_t>(value != value ? 0x7fff : rounded)};
    }
    static Bf16 from_double(double value) { return from_float(float_to_odd(value)); }
};

struct Half {
    uint16_t bits = 0;

    operator float() const {
        // Moves the exponent by a product, so that subnormals come out right.
        const uint32_t magnitude = bits & 0x7fff;
        const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
        const uint32_t finite = std::bit_cast<uint32_t>(scaled);
        const uint32_t special = magnitude >= 0x7c00 ? 0x7f800000 : 0;
        return std::bit_cast<float>(finite | special | uint32_t{bits & 0x8000u} << 16);
    }
    static Half from_double(double value) {
        return {static_cast<uint16_t>(encode(value, 10, 5, Rounding::rn))};
    }
    static Half from_float(float value) { return from_double(value); }
};

// Two halves in a 32-bit register, the first in the lower bits.
template <class H>
struct Pair {
    H low, high;
};

inline float canonical(float value) {
    return value != value ? std::bit_cast<float>(0x7fffffffu) : value;
}
inline double canonical(double value) { return value; }

// Subnormals become zero of their sign.
template <bool ftz>
float flush(float value) {
    if constexpr (!ftz) return value;
    const auto bits = std::bit_cast<uint32_t>(value);
    return std::bit_cast<float>((bits & 0x7f800000) ? bits : bits & 0x80000000);
}

// To [0, 1]; NaN becomes 0.
inline float saturate(float value) { return value > 0 ? (value < 1 ? value : 1.0f) : 0.0f; }
inline double saturate(double value) { return value > 0 ? (value < 1 ? value : 1.0) : 0.0; }

}  // namespace cudaemu
