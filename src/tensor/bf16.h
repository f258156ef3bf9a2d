// bfloat16: the upper half of an f32. A storage type; arithmetic is done in f32.
#pragma once

#include <bit>
#include <cstdint>

namespace fomoe {

struct bf16 {
    uint16_t bits = 0;
};

// Exact.
inline float to_f32(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

// Rounds to the nearest, ties to even; what is too large becomes infinite. NaN stays NaN.
inline bf16 to_bf16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint32_t quiet = (bits >> 16) | 0x40;
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return {static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded)};
}

}  // namespace fomoe
