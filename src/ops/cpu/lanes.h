// Rows of f32 or bf16 by whole vectors of f32. The compiler rounds to bf16 poorly by itself.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "ops/cpu/elements.h"
#include "ops/cpu/simd.h"
#include "ops/cpu/tile.h"

namespace fomoe {

using IntVec [[gnu::vector_size(4 * kLanes)]] = int32_t;
using BitVec [[gnu::vector_size(4 * kLanes)]] = uint32_t;
using HalfVec [[gnu::vector_size(2 * kLanes)]] = uint16_t;

inline Vec load_lanes(const float* from) { return load(from); }
inline Vec load_lanes(const bf16* from) {
    HalfVec bits;
    std::memcpy(&bits, from, sizeof bits);
#ifdef __AVX512F__
    const BitVec wide =
        std::bit_cast<BitVec>(_mm512_maskz_cvtepu16_epi32(-1, std::bit_cast<__m256i>(bits)));
#else
    const BitVec wide = __builtin_convertvector(bits, BitVec);
#endif
    return std::bit_cast<Vec>(wide << 16);
}

inline void store_lanes(float* to, Vec v) { store(to, v); }
// Where the processor rounds, what is below 2^-126 becomes 0: to_bf16 is for what must be exact.
inline void store_lanes(bf16* to, Vec v) {
#ifdef __AVX512BF16__
    const HalfVec bits = std::bit_cast<HalfVec>(_mm512_cvtneps_pbh(v));
#else
    const BitVec in = std::bit_cast<BitVec>(v);
    const BitVec rounded = (in + 0x7fff + (in >> 16 & 1)) >> 16;
    const BitVec quiet = (in >> 16) | 0x40;
    const HalfVec bits =
        __builtin_convertvector((in & 0x7fffffffu) > 0x7f800000u ? quiet : rounded, HalfVec);
#endif
    std::memcpy(static_cast<void*>(to), &bits, sizeof bits);
}

// Reads and writes a vector of a row.
struct WholeVec {
    template <class T>
    Vec load(const T* from) const {
        return load_lanes(from);
    }
    template <class T>
    void store(T* to, Vec v) const {
        store_lanes(to, v);
    }
};

// The last one, of n < kLanes elements. What is behind them reads as 0 and is not written.
struct PartVec {
    int n;
    template <class T>
    Vec load(const T* from) const {
        T there[kLanes] = {};
        for (int i = 0; i < n; ++i) there[i] = from[i];
        return load_lanes(there);
    }
    template <class T>
    void store(T* to, Vec v) const {
        T there[kLanes];
        store_lanes(there, v);
        for (int i = 0; i < n; ++i) to[i] = there[i];
    }
};

// Calls body(i, vec) for i = 0, kLanes ... below n, where vec reads and writes from element i on.
template <class Body>
inline void for_lanes(int64_t n, Body body) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) body(i, WholeVec{});
    if (i < n) body(i, PartVec{static_cast<int>(n - i)});
}

template <int kStep, size_t... lane>
inline Vec rotated(Vec v, std::index_sequence<lane...>) {
    return __builtin_shuffle(v, IntVec{(lane + kStep) % kLanes...});
}

// Of all lanes, added by halves.
inline float sum_of(Vec v) {
    constexpr std::make_index_sequence<kLanes> lanes;
    if constexpr (kLanes > 8) v += rotated<8>(v, lanes);
    if constexpr (kLanes > 4) v += rotated<4>(v, lanes);
    v += rotated<2>(v, lanes);
    v += rotated<1>(v, lanes);
    return v[0];
}

// 1 / x for 2^-120 < x < 2^120.
inline Vec reciprocal(Vec x) {
#ifdef __AVX512F__
    const Vec y = _mm512_maskz_rcp14_ps(-1, x);
    return y * (2.0f - x * y);
#else
    return 1.0f / x;
#endif
}

inline Vec exp(Vec x) {
    Vec y = x;
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) y[i] = fast_exp(x[i]);
    return y;
}

inline Vec sqrt(Vec x) {
    Vec y = x;
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) y[i] = std::sqrt(x[i]);
    return y;
}

}  // namespace fomoe
