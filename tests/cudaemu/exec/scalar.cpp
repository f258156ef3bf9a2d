// Rounding to any number format.
#include "exec/scalar.h"

#include <algorithm>

namespace cudaemu {

uint64_t encode(double value, int mantissa, int exponent, Rounding rounding) {
    const auto bits = std::bit_cast<uint64_t>(value);
    const bool negative = bits >> 63;
    const uint64_t sign = uint64_t{negative} << (mantissa + exponent);
    const uint64_t infinity = ((uint64_t{1} << exponent) - 1) << mantissa;
    if (value != value) return (uint64_t{1} << (mantissa + exponent)) - 1;
    if (std::isinf(value)) return sign | infinity;
    if (value == 0) return sign;

    // |value| = significand * 2^(power - 52). Subnormal doubles are below what any format can tell.
    const int power = static_cast<int>(bits >> 52 & 0x7ff) - 1023;
    const uint64_t significand = (bits & ((uint64_t{1} << 52) - 1)) | uint64_t{1} << 52;
    const int smallest = 2 - (1 << (exponent - 1));  // power of the smallest normal number
    const int shift = std::min(52 - mantissa + std::max(smallest - power, 0), 60);
    uint64_t kept = significand >> shift;
    const uint64_t lost = significand & ((uint64_t{1} << shift) - 1);
    const uint64_t half = shift ? uint64_t{1} << (shift - 1) : 0;
    bool up = false;
    switch (rounding) {
        case Rounding::rn:
            up = lost && (lost > half || (lost == half && (kept & 1)));
            break;
        case Rounding::rna:
            up = lost && lost >= half;
            break;
        case Rounding::rz:
            break;
        case Rounding::rm:
            up = lost && negative;
            break;
        case Rounding::rp:
            up = lost && !negative;
            break;
    }
    kept += up;
    // A carry out of the mantissa raises the exponent by itself.
    const uint64_t result = power < smallest
                                ? kept
                                : (static_cast<uint64_t>(power - smallest + 1) << mantissa) + kept -
                                      (uint64_t{1} << mantissa);
    if (result < infinity) return sign | result;
    const bool to_infinity = rounding == Rounding::rn || rounding == Rounding::rna ||
                             (rounding == Rounding::rm && negative) ||
                             (rounding == Rounding::rp && !negative);
    return sign | (to_infinity ? infinity : infinity - 1);
}

}  // namespace cudaemu
