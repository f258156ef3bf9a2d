// Matmuls of tiles that lie in the caches, for attention. An operand is made of words of 32 bits:
// an f32, or, where the processor multiplies bf16, two of them that are neighbours along k.
#pragma once

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include <algorithm>
#include <type_traits>

#include "ops/cpu/elements.h"
#include "ops/cpu/transpose.h"

namespace fomoe {

struct [[gnu::may_alias]] Pair {
    uint32_t bits;  // elements k and k + 1, the first in the low half
};

#ifdef __AVX512BF16__
inline constexpr bool kMultipliesPairs = true;
#else
inline constexpr bool kMultipliesPairs = false;
#endif

// What activations of type T are multiplied as.
template <class T>
using WordOf = std::conditional_t<kMultipliesPairs && std::is_same_v<T, bf16>, Pair, float>;
template <class Word>
inline constexpr int kElements = std::is_same_v<Word, Pair> ? 2 : 1;  // of a word

// Words of a row of n elements. Rows are whole blocks of transpose_tile.
template <class Word>
constexpr int64_t words_of(int64_t n) {
    return whole_tiles((n + kElements<Word> - 1) / kElements<Word>);
}

template <class Word>
Vec load_words(const Word* from) {
    Vec words;
    std::memcpy(&words, from, sizeof words);
    return words;
}
template <class Word>
void store_words(Word* to, Vec words) {
    std::memcpy(to, &words, sizeof words);
}

// ---- packing -----------------------------------------------------------------------------------

// to (rows x words) = from (`rows_there` x `n`), the rest zero.
template <class T>
void load_tile(float* to, int64_t rows, int64_t words, const T* from, int64_t from_row,
               int64_t rows_there, int64_t n) {
    for (int64_t i = 0; i < rows_there; ++i) {
        float* row = to + i * words;
        for (int64_t d = 0; d < n; ++d) row[d] = to_f32(from[i * from_row + d]);
        for (int64_t d = n; d < words; ++d) row[d] = 0;
    }
    std::memset(to + rows_there * words, 0, (rows - rows_there) * words * sizeof(float));
}

inline constexpr int kPanel = 32;  // columns of a right operand that stay in the L1 cache together

// The words of from (rows x words), turned: panels (words x kPanel) of rows, one behind the other.
template <class Word>
void transpose_tile(Word* to, const Word* from, int64_t rows, int64_t words) {
    for (int64_t m = 0; m < rows; m += kLanes) {
        Word* panel = to + m / kPanel * kPanel * words + m % kPanel;
        for (int64_t n = 0; n < words; n += kLanes) {
            Vec block[kLanes];
            for (int i = 0; i < kLanes; ++i) block[i] = load_words(from + (m + i) * words + n);
            transpose_lanes(block);
            for (int i = 0; i < kLanes; ++i) store_words(panel + (n + i) * kPanel, block[i]);
        }
    }
}

// The rows of a tile, for sums over rows: as they are.
inline const float* pair_rows(float*, const float* from, int64_t, int64_t) { return from; }

#ifdef __AVX512BF16__

inline void load_tile(Pair* to, int64_t rows, int64_t words, const bf16* from, int64_t from_row,
                      int64_t rows_there, int64_t n) {
    constexpr int64_t kStep = 2 * kLanes;
    for (int64_t i = 0; i < rows_there; ++i) {
        for (int64_t d = 0; d < 2 * words; d += kStep) {
            const int64_t there = std::clamp<int64_t>(n - d, 0, kStep);
            const auto mask = static_cast<__mmask32>((uint64_t{1} << there) - 1);
            store_words(to + i * words + d / 2,
                        (Vec)_mm512_maskz_loadu_epi16(mask, from + i * from_row + d));
        }
    }
    std::memset(to + rows_there * words, 0, (rows - rows_there) * words * sizeof(Pair));
}

// Words of neighbours in a and b from 32 elements of each: the first 16, and the others.
inline Vec pair_low(Vec a, Vec b) {
    alignas(64) static constexpr int16_t kFrom[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                      37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                      11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    return (Vec)_mm512_permutex2var_epi16((__m512i)a, _mm512_load_si512(kFrom), (__m512i)b);
}
inline Vec pair_high(Vec a, Vec b) {
    alignas(64) static constexpr int16_t kFrom[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21,
                                                      53, 22, 54, 23, 55, 24, 56, 25, 57, 26, 58,
                                                      27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
    return (Vec)_mm512_permutex2var_epi16((__m512i)a, _mm512_load_si512(kFrom), (__m512i)b);
}

// to (rows / 2 x 2 words) = pairs of neighbours in rows of from (rows x words).
inline const Pair* pair_rows(Pair* to, const Pair* from, int64_t rows, int64_t words) {
    for (int64_t i = 0; i < rows; i += 2) {
        for (int64_t w = 0; w < words; w += kLanes) {
            const Vec a = load_words(from + i * words + w);
            const Vec b = load_words(from + (i + 1) * words + w);
            store_words(to + i * words + 2 * w, pair_low(a, b));
            store_words(to + i * words + 2 * w + kLanes, pair_high(a, b));
        }
    }
    return to;
}

#endif

// ---- multiplying -------------------------------------------------------------------------------

inline Vec multiply_add(Vec sum, float a, Vec b) { return sum + a * b; }
#ifdef __AVX512BF16__
inline Vec multiply_add(Vec sum, Pair a, Vec b) {
    const __m512i left = _mm512_set1_epi32(static_cast<int>(a.bits));
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)b);
}
#endif

// A left operand, read word by word: word (i, k) is data[i * row + k * column].
template <class Word>
struct TileView {
    const Word* data;
    int64_t row;
    int64_t column;
};

// The vectors of c become put(sum, what is there, row).
template <int kVecs, class Word, class Put>
void multiply_block(int64_t K, TileView<Word> a, const Word* b, int64_t b_row, float* c,
                    int64_t c_row, int first_row, Put put) {
    Vec sum[kTileRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kTileRows; ++i)
        for (int v = 0; v < kVecs; ++v) sum[i][v] = Vec{};
    for (int64_t k = 0; k < K; ++k) {
        Vec right[kVecs];
        for (int v = 0; v < kVecs; ++v) right[v] = load_words(b + k * b_row + v * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kTileRows; ++i) {
            const Word left = a.data[i * a.row + k * a.column];
            for (int v = 0; v < kVecs; ++v) sum[i][v] = multiply_add(sum[i][v], left, right[v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kTileRows; ++i) {
        for (int v = 0; v < kVecs; ++v) {
            float* to = c + i * c_row + v * kLanes;
            store(to, put(sum[i][v], to, first_row + i));
        }
    }
}

// By vectors, kBlock rows at a time.
template <class OperandWord>
struct VectorMultiply {
    using Word = OperandWord;
    static constexpr int kBlock = 8;
    static_assert(kBlock % kTileRows == 0);

    // Rows of a (kBlock x K words) times b (K x N), N a multiple of kTileUnit. A vector of c
    // becomes put(sum, to, row).
    template <class Put>
    void rows(int64_t N, int64_t K, TileView<Word> a, const Word* b, int64_t b_row, float* c,
              int64_t c_row, Put put) const {
        for (int64_t n = 0; n < N;) {
            const bool wide = n + 2 * kLanes <= N;
            for (int m = 0; m < kBlock; m += kTileRows) {
                const TileView<Word> rows{a.data + m * a.row, a.row, a.column};
                float* to = c + m * c_row + n;
                if (wide) {
                    multiply_block<2>(K, rows, b + n, b_row, to, c_row, m, put);
                } else {
                    multiply_block<1>(K, rows, b + n, b_row, to, c_row, m, put);
                }
            }
            n += wide ? 2 * kLanes : kLanes;
        }
    }
};

// What may be put.
inline constexpr auto set = [](Vec sum, const float*, int) { return sum; };
inline constexpr auto add = [](Vec sum, const float* to, int) { return load(to) + sum; };

}  // namespace fomoe
