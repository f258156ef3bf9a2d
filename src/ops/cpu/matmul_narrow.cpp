// Matmul of bf16 operands, by the instructions of AVX512-BF16: a word holds two neighbours along k,
// and one instruction adds both products to an f32. b is packed; so is a, but where whole words of
// its rows can be read as they lie.
#include "ops/backend.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/matmul_pairs.h"

namespace fomoe {

#ifdef __AVX512BF16__

namespace {

constexpr int64_t kMaxVecs = 3;  // vectors in a row of the tile

// Rows of a, `stride` words apart: in slivers or each by itself.
struct LeftRows {
    const Word* words;
    int64_t stride;
    bool slivers;
};

// c (kHeight x kVecs vectors) = or += a times a panel. A word of row i of a is a[p * kTileRows + i]
// in a sliver, otherwise a[i * a_stride + p].
template <int kHeight, int kVecs, bool kSliver, class T>
void tile_kernel(int64_t pairs, const Word* a, int64_t a_stride, const Word* panel, T* c,
                 int64_t c_stride, Put how) {
    __m512 sum[kHeight][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kHeight; ++i)
#pragma GCC unroll 3
        for (int v = 0; v < kVecs; ++v) {
            if (how == Put::add) __builtin_prefetch(c + i * c_stride + v * kLanes, 1);
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
        for (int v = 0; v < kVecs; ++v)
            store(c + i * c_stride + v * kLanes, sum[i][v], 0xffff, how);
}

template <class T>
using TileKernel = void (*)(int64_t, const Word*, int64_t, const Word*, T*, int64_t, Put);

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

// See multiply_blocks.
struct ByVectors {
    static constexpr int64_t kWidth = kMaxVecs * kLanes, kRows = kLanes, kPairs = 1;
    static constexpr int64_t kPanels = 10 * kWidth * 256, kSlivers = 128 * 256;

    // Sliver of kTileRows, then pair, then row; or, where a is not transposed, row by row.
    static LeftRows pack(Word* to, const bf16* from, const Matmul& x, int64_t rows, int64_t depth,
                         int64_t pairs) {
        if (!x.a.transposed) {
            if (x.a.stride % 2 == 0 && x.k % 2 == 0)
                return {reinterpret_cast<const Word*>(from), x.a.stride / 2, false};
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t p = 0; p < depth; p += 2 * kLanes)
                    _mm512_mask_storeu_epi32(to + i * pairs + p / 2, first_lanes(pairs - p / 2),
                                             words(from + i * x.a.stride + p, depth - p));
            return {to, pairs, false};
        }
        static_assert(kLanes == 2 * kTileRows);
        pack_across(from, x.a.stride, depth, rows, [&](int64_t pair, int64_t i, Words both) {
            for (int64_t half = 0; half < 2; ++half)
                std::memcpy(to + (i + half * kTileRows) * pairs + pair * kTileRows,
                            reinterpret_cast<const Word*>(&both) + half * kTileRows,
                            kTileRows * sizeof(Word));
        });
        return {to, pairs, true};
    }

    template <class T>
    static void multiply(const LeftRows& a, const Word* panels, int64_t pairs, int64_t rows,
                         int64_t columns, T* c, int64_t stride, Put how) {
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
                                                           how);
                    continue;
                }
                kernel_for<float>(height, vecs, a.slivers)(pairs, left, a.stride, panel, edge,
                                                           kWidth, Put::set);
                store_tile<kWidth>(to, stride, edge, height, width, how);
            }
        }
    }
};

}  // namespace

bool cpu_multiplies_bf16() { return true; }

void multiply_narrow(const Matmul& x) { multiply_by<ByVectors>(x); }

#else

bool cpu_multiplies_bf16() { return false; }

void multiply_narrow(const Matmul&) {}

#endif

}  // namespace fomoe
