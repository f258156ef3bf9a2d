// Matmul of bf16 operands, by the instructions of AVX512-BF16: a word holds two neighbours along k,
// and one instruction adds both products to an f32. b is packed; so is a, but where whole words of
// its rows can be read as they lie.
#include "ops/backend.h"
#include "ops/cpu/matmul.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "ops/cpu/elements.h"
#include "ops/cpu/transpose.h"
#endif

namespace fomoe {

#ifdef __AVX512BF16__

namespace {

// Elements k and k + 1, the first in the low half; in memory of floats or of bf16.
using Word [[gnu::may_alias, gnu::aligned(2)]] = uint32_t;

constexpr int64_t kMaxVecs = 3;
constexpr int64_t kWidth = kMaxVecs * kLanes;  // columns of a tile

// Words of b and of a that are packed at a time: they share the L2 cache.
constexpr int64_t kPanels = 10 * kWidth * 256, kSlivers = 128 * 256;
constexpr int64_t kAhead = 8;    // rows that are fetched before they are packed
constexpr int64_t kDepth = 512;  // of a block, but where a whole sum has to be rounded

// The size of even blocks of at most `largest`, a multiple of `unit`.
constexpr int64_t even_block(int64_t size, int64_t largest, int64_t unit) {
    const int64_t blocks = (size + largest - 1) / largest;
    return ((size + blocks - 1) / blocks + unit - 1) / unit * unit;
}

// ---- packing -----------------------------------------------------------------------------------

__mmask16 first_lanes(int64_t n) {
    return static_cast<__mmask16>(n >= kLanes ? 0xffff : (1u << std::max<int64_t>(n, 0)) - 1);
}

using Halves [[gnu::vector_size(32)]] = uint16_t;
using Words [[gnu::vector_size(64)]] = uint32_t;

// Up to 16 elements, as the low halves of 16 words.
Words halves(const bf16* from, int64_t n) {
    return __builtin_convertvector((Halves)_mm256_maskz_loadu_epi16(first_lanes(n), from), Words);
}

// 16 words of up to 32 elements that lie one behind the other.
__m512i words(const bf16* from, int64_t n) {
    const auto mask = static_cast<__mmask32>(n >= 32 ? ~0u : (1u << n) - 1);
    return _mm512_maskz_loadu_epi16(mask, from);
}

// Element (p, j) of the operand is from[p * stride + j]: pairs of rows. put(p / 2, j, words) gets
// the words of 16 columns.
template <class Put>
void pack_across(const bf16* from, int64_t stride, int64_t k, int64_t n, Put put) {
    for (int64_t p = 0; p < k; p += 2) {
        const bf16 *row = from + p * stride, *next = row + stride;
        for (int64_t j = 0; j < n; j += kLanes) {
            __builtin_prefetch(row + j + kAhead * stride);
            __builtin_prefetch(next + j + kAhead * stride);
            Words both = halves(row + j, n - j);
            if (p + 1 < k) both |= halves(next + j, n - j) << 16;
            put(p / 2, j, both);
        }
    }
}

// Element (p, j) is from[j * stride + p]: 16 columns are read along k and turned.
void pack_along(Word* to, int64_t width, const bf16* from, int64_t stride, int64_t k,
                int64_t columns) {
    for (int64_t p = 0; p < k; p += 2 * kLanes) {
        Vec rows[kLanes];
        for (int64_t j = 0; j < kLanes; ++j) {
            __builtin_prefetch(from + j * stride + p + 4 * kLanes);
            rows[j] = j < columns ? (Vec)words(from + j * stride + p, k - p) : Vec{};
        }
        transpose_lanes(rows);
        const int64_t pairs = std::min<int64_t>(kLanes, (k - p + 1) / 2);
        for (int64_t i = 0; i < pairs; ++i)
            _mm512_storeu_si512(to + (p / 2 + i) * width, (__m512i)rows[i]);
    }
}

// A block of b, k rows from first_row on, n columns from `begin` on: the panel of column j begins
// at to + j * pairs.
void pack_panels(Word* to, const MatmulOperand& b, int64_t first_row, int64_t k, int64_t begin,
                 int64_t n) {
    const bf16* data = static_cast<const bf16*>(b.data);
    const int64_t pairs = (k + 1) / 2;
    const auto width_at = [&](int64_t j) { return whole_vectors(std::min(kWidth, n - j)); };
    if (b.transposed) {
        for (int64_t j = 0; j < n; j += kLanes) {
            const int64_t panel = j / kWidth * kWidth;
            pack_along(to + panel * pairs + j - panel, width_at(panel),
                       data + (begin + j) * b.stride + first_row, b.stride, k, n - j);
        }
        return;
    }
    pack_across(data + first_row * b.stride + begin, b.stride, k, n,
                [&](int64_t pair, int64_t j, Words both) {
                    const int64_t panel = j / kWidth * kWidth;
                    std::memcpy(to + panel * pairs + pair * width_at(panel) + j - panel, &both,
                                sizeof both);
                });
}

// Rows of a: sliver of kTileRows, then pair, then row; or, where a is not transposed, row by row.
void pack_rows(Word* to, const bf16* from, const MatmulOperand& a, int64_t rows, int64_t k) {
    const int64_t pairs = (k + 1) / 2;
    if (!a.transposed) {
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t p = 0; p < k; p += 2 * kLanes)
                _mm512_mask_storeu_epi32(to + i * pairs + p / 2, first_lanes(pairs - p / 2),
                                         words(from + i * a.stride + p, k - p));
        return;
    }
    static_assert(kLanes == 2 * kTileRows);
    pack_across(from, a.stride, k, rows, [&](int64_t pair, int64_t i, Words both) {
        for (int64_t half = 0; half < 2; ++half)
            std::memcpy(to + (i + half * kTileRows) * pairs + pair * kTileRows,
                        reinterpret_cast<const Word*>(&both) + half * kTileRows,
                        kTileRows * sizeof(Word));
    });
}

// ---- micro-kernel ------------------------------------------------------------------------------

void store(float* to, __m512 sum, bool accumulate) {
    _mm512_storeu_ps(to, accumulate ? _mm512_add_ps(_mm512_loadu_ps(to), sum) : sum);
}
void store(bf16* to, __m512 sum, bool accumulate) {
    if (accumulate) sum = _mm512_add_ps((__m512)(halves(to, kLanes) << 16), sum);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(sum));
}

// c (kHeight x kVecs vectors) = or += a times a panel. A word of row i of a is a[p * kTileRows + i]
// in a sliver, otherwise a[i * a_stride + p].
template <int kHeight, int kVecs, bool kSliver, class T>
void tile_kernel(int64_t pairs, const Word* a, int64_t a_stride, const Word* panel, T* c,
                 int64_t c_stride, bool accumulate) {
    __m512 sum[kHeight][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kHeight; ++i)
#pragma GCC unroll 3
        for (int v = 0; v < kVecs; ++v) {
            if (accumulate) __builtin_prefetch(c + i * c_stride + v * kLanes, 1);
            sum[i][v] = _mm512_setzero_ps();
        }
    for (int64_t p = 0; p < pairs; ++p) {
        __m512bh right[kVecs];
#pragma GCC unroll 3
        for (int v = 0; v < kVecs; ++v)
            right[v] = (__m512bh)_mm512_loadu_si512(panel + (p * kVecs + v) * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kHeight; ++i) {
            const Word word = kSliver ? a[p * kTileRows + i] : a[i * a_stride + p];
            const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(word));
#pragma GCC unroll 3
            for (int v = 0; v < kVecs; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], left, right[v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kHeight; ++i)
#pragma GCC unroll 3
        for (int v = 0; v < kVecs; ++v) store(c + i * c_stride + v * kLanes, sum[i][v], accumulate);
}

template <class T>
using TileKernel = void (*)(int64_t, const Word*, int64_t, const Word*, T*, int64_t, bool);

template <class T, bool kSliver, size_t... kIndex>
TileKernel<T> kernel_of(int64_t rows, int64_t vecs, std::index_sequence<kIndex...>) {
    static constexpr TileKernel<T> kAll[] = {
        tile_kernel<kIndex / kMaxVecs + 1, kIndex % kMaxVecs + 1, kSliver, T>...};
    return kAll[(rows - 1) * kMaxVecs + vecs - 1];
}

template <class T>
TileKernel<T> kernel_for(int64_t rows, int64_t vecs, bool sliver) {
    constexpr std::make_index_sequence<kTileRows * kMaxVecs> kAll;
    return sliver ? kernel_of<T, true>(rows, vecs, kAll) : kernel_of<T, false>(rows, vecs, kAll);
}

// Rows of a, `stride` words apart: in slivers or each by itself.
struct LeftRows {
    const Word* words;
    int64_t stride;
    bool slivers;
};

// A block of c (rows x columns) from rows of a and panels.
template <class T>
void multiply_block(const LeftRows& a, const Word* panels, int64_t pairs, int64_t rows,
                    int64_t columns, T* c, int64_t stride, bool accumulate) {
    alignas(64) float edge[kTileRows * kWidth];
    for (int64_t j = 0; j < columns; j += kWidth) {
        const int64_t width = std::min(kWidth, columns - j);
        const int64_t vecs = whole_vectors(width) / kLanes;
        for (int64_t i = 0; i < rows; i += kTileRows) {
            const int64_t height = std::min<int64_t>(kTileRows, rows - i);
            const Word *left = a.words + i * a.stride, *panel = panels + j * pairs;
            T* to = c + i * stride + j;
            if (width == vecs * kLanes) {
                kernel_for<T>(height, vecs, a.slivers)(pairs, left, a.stride, panel, to, stride,
                                                       accumulate);
                continue;
            }
            kernel_for<float>(height, vecs, a.slivers)(pairs, left, a.stride, panel, edge, kWidth,
                                                       false);
            for (int64_t r = 0; r < height; ++r)
                for (int64_t q = 0; q < width; ++q) {
                    T& sum = to[r * stride + q];
                    sum = rounded<T>((accumulate ? to_f32(sum) : 0.0f) + edge[r * kWidth + q]);
                }
        }
    }
}

template <class T>
void multiply_into(T* c, const Matmul& x) {
    const bf16* a = static_cast<const bf16*>(x.a.data);
    const bool whole = x.c.dtype != DType::f32;
    const int64_t deepest = whole ? x.k : even_block(x.k, kDepth, 2), pairs = (deepest + 1) / 2;
    const int64_t widest = even_block(x.n, std::max(kWidth, kPanels / pairs), kWidth);
    const int64_t highest = std::max<int64_t>(kLanes, kSlivers / pairs / kLanes * kLanes);
    float* memory = tile_scratch((widest + highest) * pairs);
    Word *panels = reinterpret_cast<Word*>(memory), *packed = panels + widest * pairs;
    const bool as_it_lies = !x.a.transposed && x.a.stride % 2 == 0 && x.k % 2 == 0;
    for (int64_t p = 0; p < x.k; p += deepest) {
        const int64_t depth = std::min(deepest, x.k - p);
        for (int64_t n = 0; n < x.n; n += widest) {
            const int64_t columns = std::min(widest, x.n - n);
            pack_panels(panels, x.b, p, depth, n, columns);
            for (int64_t m = 0; m < x.m; m += highest) {
                const int64_t rows = std::min(highest, x.m - m);
                const bf16* from = a + (x.a.transposed ? p * x.a.stride + m : m * x.a.stride + p);
                LeftRows left{reinterpret_cast<const Word*>(from), x.a.stride / 2, false};
                if (!as_it_lies) {
                    pack_rows(packed, from, x.a, rows, depth);
                    left = {packed, (depth + 1) / 2, x.a.transposed};
                }
                multiply_block(left, panels, (depth + 1) / 2, rows, columns, c + m * x.stride + n,
                               x.stride, x.accumulate || p > 0);
            }
        }
    }
}

}  // namespace

bool cpu_multiplies_bf16() { return true; }

void multiply_narrow(const Matmul& x) {
    if (x.c.dtype == DType::bf16)
        multiply_into(static_cast<bf16*>(x.c.data), x);
    else
        multiply_into(x.c.f32(), x);
}

#else

bool cpu_multiplies_bf16() { return false; }

void multiply_narrow(const Matmul&) {}

#endif

}  // namespace fomoe
