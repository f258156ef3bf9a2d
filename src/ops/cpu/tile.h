// Matmuls of tiles that lie in the caches, for attention: GCC's portable vectors, one micro-kernel.
#pragma once

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

using Vec [[gnu::vector_size(4 * kLanes)]] = float;

inline Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

inline Vec exp(Vec x) {
    Vec y;
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) y[i] = fast_exp(x[i]);
    return y;
}

// Scratch of the calling thread, aligned to 64 bytes. It grows to the largest request and stays.
inline float* tile_scratch(int64_t floats) {
    thread_local std::vector<float> memory;
    if (int64_t(memory.size()) < floats + 16) memory = std::vector<float>(floats + 16);
    return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) / 4 % 16;
}

// An operand that is read element by element: element (i, k) is data[i * row + k * column].
struct TileView {
    const float* data;
    int64_t row;
    int64_t column;
};

// c (kTileRows x kVecs vectors) += a (kTileRows x K) b (K x kVecs vectors).
template <int kVecs>
void multiply_block(int64_t K, TileView a, const float* b, int64_t b_row, float* c, int64_t c_row) {
    Vec sum[kTileRows][kVecs] = {};
    for (int64_t k = 0; k < K; ++k) {
        Vec right[kVecs];
        for (int v = 0; v < kVecs; ++v) right[v] = load(b + k * b_row + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kTileRows; ++i) {
            const float left = a.data[i * a.row + k * a.column];
            for (int v = 0; v < kVecs; ++v) sum[i][v] += left * right[v];
        }
    }
    for (int i = 0; i < kTileRows; ++i) {
        for (int v = 0; v < kVecs; ++v) {
            float* to = c + i * c_row + v * kLanes;
            store(to, load(to) + sum[i][v]);
        }
    }
}

// c (M x N) += a (M x K) b (K x N), M and N multiples of kTileUnit.
inline void multiply_tile(int64_t M, int64_t N, int64_t K, TileView a, const float* b,
                          int64_t b_row, float* c, int64_t c_row) {
    for (int64_t n = 0; n < N;) {
        const bool wide = n + 2 * kLanes <= N;
        for (int64_t m = 0; m < M; m += kTileRows) {
            const TileView rows{a.data + m * a.row, a.row, a.column};
            if (wide) {
                multiply_block<2>(K, rows, b + n, b_row, c + m * c_row + n, c_row);
            } else {
                multiply_block<1>(K, rows, b + n, b_row, c + m * c_row + n, c_row);
            }
        }
        n += wide ? 2 * kLanes : kLanes;
    }
}

// to (rows x width) = scale * from (`rows_there` x `width_there`), the rest zero.
inline void load_tile(float* to, int64_t rows, int64_t width, const float* from, int64_t from_row,
                      int64_t rows_there, int64_t width_there, float scale = 1.0f) {
    for (int64_t i = 0; i < rows_there; ++i) {
        float* row = to + i * width;
        for (int64_t d = 0; d < width_there; ++d) row[d] = scale * from[i * from_row + d];
        for (int64_t d = width_there; d < width; ++d) row[d] = 0;
    }
    std::memset(to + rows_there * width, 0, (rows - rows_there) * width * sizeof(float));
}

// to (N x M) = the transpose of from (M x N), both multiples of kTileUnit.
inline void transpose_tile(float* to, const float* from, int64_t M, int64_t N) {
    constexpr int kBlock = 16;
    for (int64_t n = 0; n < N; n += kBlock) {
        for (int64_t m = 0; m < M; m += kBlock) {
            for (int j = 0; j < kBlock; ++j) {
                for (int i = 0; i < kBlock; ++i) {
                    to[(n + j) * M + m + i] = from[(m + i) * N + n + j];
                }
            }
        }
    }
}

}  // namespace fomoe
