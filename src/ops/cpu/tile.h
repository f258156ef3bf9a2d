// Vectors, in GCC's portable form, and a thread's scratch.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <vector>

#include "ops/cpu/simd.h"

namespace fomoe {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16, kTileRows = 8;
#elif defined(__AVX__)
inline constexpr int kLanes = 8, kTileRows = 4;
#elif defined(__aarch64__)
inline constexpr int kLanes = 4, kTileRows = 8;
#else
inline constexpr int kLanes = 4, kTileRows = 4;
#endif

// Every extent of a tile is a multiple of this; what is missing is filled with zeros.
inline constexpr int kTileUnit = 16;
constexpr int64_t whole_tiles(int64_t n) { return (n + kTileUnit - 1) / kTileUnit * kTileUnit; }

constexpr int64_t whole_vectors(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

using Vec [[gnu::vector_size(4 * kLanes)]] = float;

inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

// Writes past the caches, where the processor can write whole lines: these are not read first. `to`
// is aligned to the vector. Other threads see it behind a barrier that follows end_stream().
#ifdef __AVX512F__
inline void stream(float* to, Vec v) { _mm512_stream_ps(to, v); }
inline void end_stream() { _mm_sfence(); }
#else
inline void stream(float* to, Vec v) { store(to, v); }
inline void end_stream() {}
#endif

// Scratch of the calling thread, aligned to 64 bytes. It grows to the largest request and stays.
inline float* tile_scratch(int64_t floats) {
    thread_local std::vector<float> memory;
    if (int64_t(memory.size()) < floats + 16) memory = std::vector<float>(floats + 16);
    return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) / 4 % 16;
}

}  // namespace fomoe
