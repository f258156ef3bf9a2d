// What the kernels for bf16 share: operands are packed block by block into words of two neighbours
// along k, b into panels as wide as the kernel's tile, and a as the kernel reads it.
#pragma once

#ifdef __AVX512BF16__

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "ops/cpu/elements.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/transpose.h"

namespace fomoe {

// Elements k and k + 1, the first in the low half; in memory of floats or of bf16.
using Word [[gnu::may_alias, gnu::aligned(2)]] = uint32_t;

inline __mmask16 first_lanes(int64_t n) {
    return static_cast<__mmask16>(n >= kLanes ? 0xffff : (1u << std::max<int64_t>(n, 0)) - 1);
}

// ---- packing -----------------------------------------------------------------------------------

using Halves [[gnu::vector_size(32)]] = uint16_t;
using Words [[gnu::vector_size(64)]] = uint32_t;

// Up to 16 elements, as the low halves of 16 words.
inline Words halves(const bf16* from, int64_t n) {
    return __builtin_convertvector((Halves)_mm256_maskz_loadu_epi16(first_lanes(n), from), Words);
}

// 16 words of up to 32 elements that lie one behind the other.
inline __m512i words(const bf16* from, int64_t n) {
    const auto mask = static_cast<__mmask32>(n >= 32 ? ~0u : (1u << n) - 1);
    return _mm512_maskz_loadu_epi16(mask, from);
}

// Elements j to j + 15 of two rows, as words; of the second row only where it is there.
inline Words paired(const bf16* row, const bf16* next, bool both, int64_t n) {
    const Words low = halves(row, n);
    return both ? low | halves(next, n) << 16 : low;
}

// Element (p, j) of the operand is from[p * stride + j]: pairs of rows. sink(p / 2, j, words) gets
// the words of 16 columns.
template <class Sink>
void pack_across(const bf16* from, int64_t stride, int64_t k, int64_t n, Sink sink) {
    constexpr int64_t kAhead = 8;  // rows that are fetched before they are packed
    for (int64_t p = 0; p < k; p += 2) {
        const bf16 *row = from + p * stride, *next = row + stride;
        for (int64_t j = 0; j < n; j += kLanes) {
            __builtin_prefetch(row + j + kAhead * stride);
            __builtin_prefetch(next + j + kAhead * stride);
            sink(p / 2, j, paired(row + j, next + j, p + 1 < k, n - j));
        }
    }
}

// Element (p, j) is from[j * stride + p]: 16 columns are read along k and turned, into `pairs` rows
// of words; zeros from k on.
inline void pack_along(Word* to, int64_t width, const bf16* from, int64_t stride, int64_t k,
                       int64_t pairs, int64_t columns) {
    for (int64_t p = 0; p < pairs; p += kLanes) {
        Vec rows[kLanes];
        for (int64_t j = 0; j < kLanes; ++j) {
            __builtin_prefetch(from + j * stride + 2 * p + 4 * kLanes);
            rows[j] = j < columns ? (Vec)words(from + j * stride + 2 * p, k - 2 * p) : Vec{};
        }
        transpose_lanes(rows);
        const int64_t there = std::min<int64_t>(kLanes, pairs - p);
        for (int64_t i = 0; i < there; ++i)
            _mm512_storeu_si512(to + (p + i) * width, (__m512i)rows[i]);
    }
}

// A block of b, k rows from first_row on, n columns from `begin` on: the panel of column j, a
// multiple of kWidth, begins at to + j * pairs. Zeros from k on.
template <int64_t kWidth>
void pack_panels(Word* to, const MatmulOperand& b, int64_t first_row, int64_t k, int64_t pairs,
                 int64_t begin, int64_t n) {
    const bf16* data = static_cast<const bf16*>(b.data);
    const auto width_at = [&](int64_t j) { return whole_vectors(std::min(kWidth, n - j)); };
    if (b.transposed) {
        for (int64_t j = 0; j < n; j += kLanes) {
            const int64_t panel = j / kWidth * kWidth;
            pack_along(to + panel * pairs + j - panel, width_at(panel),
                       data + (begin + j) * b.stride + first_row, b.stride, k, pairs, n - j);
        }
        return;
    }
    pack_across(data + first_row * b.stride + begin, b.stride, k, n,
                [&](int64_t pair, int64_t j, Words both) {
                    const int64_t panel = j / kWidth * kWidth;
                    std::memcpy(to + panel * pairs + pair * width_at(panel) + j - panel, &both,
                                sizeof both);
                });
    const int64_t there = (k + 1) / 2;
    for (int64_t j = 0; j < n && there < pairs; j += kWidth)
        std::memset(to + j * pairs + there * width_at(j), 0,
                    (pairs - there) * width_at(j) * sizeof(Word));
}

// ---- results -----------------------------------------------------------------------------------

inline void store(float* to, __m512 sum, __mmask16 mask, Put how) {
    if (how == Put::stream && mask == 0xffff) return stream(to, sum);
    if (how == Put::add) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum);
    _mm512_mask_storeu_ps(to, mask, sum);
}
inline void store(bf16* to, __m512 sum, __mmask16 mask, Put how) {
    if (how == Put::add) {
        const Words there =
            __builtin_convertvector((Halves)_mm256_maskz_loadu_epi16(mask, to), Words);
        sum = _mm512_add_ps((__m512)(there << 16), sum);
    }
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(sum));
}

// c (rows x columns) = or += a tile of sums, kWidth apart.
template <int64_t kWidth, class T>
void store_tile(T* c, int64_t stride, const float* sums, int64_t rows, int64_t columns, Put how) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; j += kLanes)
            store(c + i * stride + j, _mm512_loadu_ps(sums + i * kWidth + j),
                  first_lanes(columns - j), how);
}

// ---- blocks ------------------------------------------------------------------------------------

// The size of even blocks of at most `largest`, but for what fills them to a multiple of `unit`.
constexpr int64_t even_block(int64_t size, int64_t largest, int64_t unit) {
    const int64_t blocks = (size + largest - 1) / largest;
    return ((size + blocks - 1) / blocks + unit - 1) / unit * unit;
}

// A Kernel has
//   kWidth    columns of its tile, and of a panel
//   kRows     the unit of the rows of a that are packed together
//   kPairs    the unit of a block along k, in words; zeros fill it
//   kPanels, kSlivers   words of b and of a that are packed at a time: they share the L2 cache
//   pack(to, from, x, rows, depth, pairs)   rows of a, from element `from` on, as multiply() reads
//             them: packed, or as they lie
//   multiply(rows of a, panels, pairs, rows, columns, c, stride, how)
template <class Kernel, class T>
void multiply_blocks(T* c, const Matmul& x) {
    constexpr int64_t kDepth = 512;  // of a block, but where a whole sum has to be rounded
    const auto pairs_of = [](int64_t k) {
        return ((k + 1) / 2 + Kernel::kPairs - 1) / Kernel::kPairs * Kernel::kPairs;
    };
    const bf16* a = static_cast<const bf16*>(x.a.data);
    const bool whole = x.c.dtype != DType::f32;
    const int64_t deepest = whole ? x.k : even_block(x.k, kDepth, 2 * Kernel::kPairs);
    const int64_t most = pairs_of(deepest);
    const int64_t widest =
        even_block(x.n, std::max(Kernel::kWidth, Kernel::kPanels / most), Kernel::kWidth);
    const int64_t highest =
        std::max(Kernel::kRows, Kernel::kSlivers / most / Kernel::kRows * Kernel::kRows);
    float* memory = tile_scratch((widest + highest) * most);
    Word *panels = reinterpret_cast<Word*>(memory), *packed = panels + widest * most;
    for (int64_t p = 0; p < x.k; p += deepest) {
        const int64_t depth = std::min(deepest, x.k - p), pairs = pairs_of(depth);
        const Put how = x.put(p == 0, p + depth == x.k);
        for (int64_t n = 0; n < x.n; n += widest) {
            const int64_t columns = std::min(widest, x.n - n);
            pack_panels<Kernel::kWidth>(panels, x.b, p, depth, pairs, n, columns);
            for (int64_t m = 0; m < x.m; m += highest) {
                const int64_t rows = std::min(highest, x.m - m);
                const bf16* from = a + (x.a.transposed ? p * x.a.stride + m : m * x.a.stride + p);
                const auto left = Kernel::pack(packed, from, x, rows, depth, pairs);
                Kernel::multiply(left, panels, pairs, rows, columns, c + m * x.stride + n, x.stride,
                                 how);
            }
        }
    }
    if (x.stream) end_stream();
}

template <class Kernel>
void multiply_by(const Matmul& x) {
    if (x.c.dtype == DType::bf16)
        multiply_blocks<Kernel>(static_cast<bf16*>(x.c.data), x);
    else
        multiply_blocks<Kernel>(x.c.f32(), x);
}

}  // namespace fomoe

#endif
