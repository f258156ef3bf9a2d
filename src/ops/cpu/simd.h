// Elementary functions that GCC turns into vector code inside `#pragma omp simd` loops.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace fomoe {

// e^x to about 1e-7 of its value for -86.9 <= x <= 88.72: e^x = 2^n e^r with |r| <= ln(2)/2.
inline float exp_within(float x) {
    constexpr float kRound =
        12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const float shifted = x * 1.44269504088896341f + kRound;
    const float n = shifted - kRound;
    const float r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    // 2^(n - 1), doubled afterwards, so that n = 128 does not overflow.
    const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound) + 126;
    const float power = std::bit_cast<float>(exponent << 23);
    return (p + p) * power;
}

// The same for any x: 0 below -86.9, infinity above 88.72, NaN for NaN.
inline float fast_exp(float x) {
    const float low = x < -86.9f ? -86.9f : x;
    const float y = exp_within(low > 88.72283f ? 88.72283f : low);
    const float above = x > 88.72283f ? std::numeric_limits<float>::infinity() : y;
    return x < -86.9f ? 0.0f : above;
}

inline float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

// erfc(x) for x >= 0, to about 2e-7 absolute.
inline float fast_erfc_positive(float x) {
    const float t = 1.0f / (1.0f + 0.5f * x);
    float p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    return t * fast_exp(p - x * x);
}

}  // namespace fomoe
