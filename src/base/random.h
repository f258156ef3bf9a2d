// Counter-based random numbers: a value is a pure function of (key, index), so any rank can draw
// any element of any tensor. A key is made from a seed and a name.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

namespace fomoe {

// The finalizer of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
// generators", OOPSLA 2014).
constexpr uint64_t mix_bits(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

constexpr uint64_t combine_bits(uint64_t a, uint64_t b) { return mix_bits(mix_bits(a) ^ b); }

constexpr uint64_t random_key(uint64_t seed, std::string_view name) {
    uint64_t key = mix_bits(seed);
    for (char c : name) key = combine_bits(key, static_cast<unsigned char>(c));
    return key;
}

constexpr uint64_t random_bits(uint64_t key, uint64_t index) { return combine_bits(key, index); }

// Uniform in (0, 1), never either end.
inline double random_uniform(uint64_t key, uint64_t index) {
    return (static_cast<double>(random_bits(key, index) >> 12) + 0.5) * 0x1p-52;
}

// Standard normal (Box and Muller 1958).
inline float random_normal(uint64_t key, uint64_t index) {
    const uint64_t bits = random_bits(key, index);
    const double radius = (static_cast<double>(bits >> 32) + 0.5) * 0x1p-32;
    const double angle = static_cast<double>(bits & 0xffffffffu) * 0x1p-32;
    return static_cast<float>(std::sqrt(-2.0 * std::log(radius)) *
                              std::cos(6.283185307179586 * angle));
}

}  // namespace fomoe
