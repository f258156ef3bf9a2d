// oneDNN multiplies what needs little packing. For b transposed, and for a transposed with few rows
// to sum over, there is a blocked matmul here: b is packed into panels as wide as the
// micro-kernel's tile, a is read where it is, or packed when it is transposed.
#include "ops/cpu/matmul.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>

#include "base/error.h"
#include "ops/backend.h"
#include "ops/cpu/tile_registers.h"
#include "ops/cpu/transpose.h"

namespace fomoe {
namespace {

constexpr int64_t kMaxVecs = 3;                // vectors in a row of the tile
constexpr int64_t kWidth = kMaxVecs * kLanes;  // columns of the tile

// How much is worked on at a time. Panels of b and slivers of a share the L2 cache.
struct Blocks {
    int64_t rows, columns, depth;
    constexpr int64_t panels() const { return columns * depth; }
    constexpr int64_t slivers() const { return rows * depth; }
};
constexpr Blocks kReadingRows{.rows = 128, .columns = 240 / kWidth * kWidth, .depth = 512};
constexpr Blocks kPackingRows{.rows = 256, .columns = 528 / kWidth * kWidth, .depth = 256};

constexpr int64_t kScratch =
    std::max(kReadingRows.panels(), kPackingRows.panels() + kPackingRows.slivers());

// ---- micro-kernel ------------------------------------------------------------------------------

// c (kRows x kVecs vectors) = or += a (kRows x k) times a panel (k x kVecs vectors). Packed:
// element (i, p) of a is a[p * kTileRows + i], otherwise a[i * a_stride + p].
template <int kRows, int kVecs, bool kPacked>
void tile_kernel(int64_t k, const float* a, int64_t a_stride, const float* panel, float* c,
                 int64_t c_stride, Put how) {
    Vec sum[kRows][kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
        for (int v = 0; v < kVecs; ++v) {
            if (how == Put::add) __builtin_prefetch(c + i * c_stride + v * kLanes, 1);
            sum[i][v] = Vec{};
        }
    for (int64_t p = 0; p < k; ++p) {
        Vec right[kVecs];
#pragma GCC unroll 3
        for (int v = 0; v < kVecs; ++v) right[v] = load(panel + (p * kVecs + v) * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
            const float left = kPacked ? a[p * kTileRows + i] : a[i * a_stride + p];
#pragma GCC unroll 3
            for (int v = 0; v < kVecs; ++v) sum[i][v] += left * right[v];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
        float* to = c + i * c_stride;
#pragma GCC unroll 3
        for (int v = 0; v < kVecs; ++v, to += kLanes) {
            if (how == Put::stream)
                stream(to, sum[i][v]);
            else
                store(to, how == Put::add ? load(to) + sum[i][v] : sum[i][v]);
        }
    }
}

using TileKernel = void (*)(int64_t, const float*, int64_t, const float*, float*, int64_t, Put);

template <bool kPacked, size_t... kIndex>
constexpr std::array<TileKernel, sizeof...(kIndex)> kernels(std::index_sequence<kIndex...>) {
    return {tile_kernel<kIndex / kMaxVecs + 1, kIndex % kMaxVecs + 1, kPacked>...};
}

TileKernel kernel_for(int64_t rows, int64_t vecs, bool packed) {
    using All = std::make_index_sequence<kTileRows * kMaxVecs>;
    static constexpr auto kReading = kernels<false>(All{});
    static constexpr auto kPacked = kernels<true>(All{});
    return (packed ? kPacked : kReading)[(rows - 1) * kMaxVecs + vecs - 1];
}

// ---- packing -----------------------------------------------------------------------------------

// to[p * width + j] = from[j * stride + p] for p < k and j < kLanes; zero from `columns` on.
void pack_transposed(float* to, int64_t width, const float* from, int64_t stride, int64_t k,
                     int64_t columns) {
    int64_t p = 0;
    for (; p + kLanes <= k; p += kLanes) {
        Vec rows[kLanes];
        for (int j = 0; j < kLanes; ++j)
            rows[j] = j < columns ? load(from + j * stride + p) : Vec{};
        transpose_lanes(rows);
        for (int i = 0; i < kLanes; ++i) store(to + (p + i) * width, rows[i]);
    }
    for (; p < k; ++p)
        for (int64_t j = 0; j < kLanes; ++j)
            to[p * width + j] = j < columns ? from[j * stride + p] : 0.0f;
}

// The panels of a block of b, k rows deep: panel j / kWidth begins at to + j * k.
void pack_panels(float* to, const MatmulOperand& b, int64_t first_row, int64_t k, int64_t begin,
                 int64_t columns) {
    if (b.transposed) {
        for (int64_t j = 0; j < columns; j += kWidth) {
            const int64_t there = std::min(kWidth, columns - j), width = whole_vectors(there);
            for (int64_t i = 0; i < there; i += kLanes)
                pack_transposed(to + j * k + i, width,
                                b.f32() + (begin + j + i) * b.stride + first_row, b.stride, k,
                                there - i);
        }
        return;
    }
    const int64_t whole = columns / kWidth * kWidth, rest = columns - whole;
    const int64_t width = whole_vectors(rest);
    for (int64_t p = 0; p < k; ++p) {  // whole rows: memory is read in its order
        const float* from = b.f32() + (first_row + p) * b.stride + begin;
        for (int64_t j = 0; j < whole; j += kWidth)
            std::memcpy(to + j * k + p * kWidth, from + j, kWidth * sizeof(float));
        float* last = to + whole * k + p * width;
        for (int64_t j = 0; j < width; ++j) last[j] = j < rest ? from[whole + j] : 0.0f;
    }
}

// Slivers of kTileRows rows of the transposed a: sliver, then p, then row. A few slivers at a time:
// more would meet in the same sets of the cache.
void pack_rows(float* to, const float* from, int64_t stride, int64_t rows, int64_t k) {
    constexpr int64_t kGroup = 4 * kTileRows;
    for (int64_t begin = 0; begin < rows; begin += kGroup) {
        const int64_t end = std::min(rows, begin + kGroup);
        const int64_t whole = begin + (end - begin) / kTileRows * kTileRows;
        for (int64_t p = 0; p < k; ++p) {
            const float* row = from + p * stride;
            for (int64_t i = begin; i < whole; i += kTileRows)
                std::memcpy(to + i * k + p * kTileRows, row + i, kTileRows * sizeof(float));
            for (int64_t i = whole; i < end; ++i)
                to[whole * k + p * kTileRows + i - whole] = row[i];
        }
    }
}

// ---- blocks ------------------------------------------------------------------------------------

// One tile of c, the last columns of which may lie outside.
void multiply_edge(TileKernel kernel, int64_t rows, int64_t columns, int64_t k, const float* a,
                   int64_t a_stride, const float* panel, float* c, int64_t c_stride, Put how) {
    alignas(64) float tile[kTileRows * kWidth];
    kernel(k, a, a_stride, panel, tile, kWidth, Put::set);
    for (int64_t i = 0; i < rows; ++i) {
        float* to = c + i * c_stride;
        for (int64_t j = 0; j < columns; ++j)
            to[j] = how == Put::add ? to[j] + tile[i * kWidth + j] : tile[i * kWidth + j];
    }
}

// oneDNN starts threads of its own unless OpenMP is set to one; the setting is the calling
// thread's.
class OneThread {
public:
    OneThread() : before_(omp_get_max_threads()) {
        if (before_ != 1) omp_set_num_threads(1);
    }
    ~OneThread() {
        if (before_ != 1) omp_set_num_threads(before_);
    }

private:
    int before_;
};

// An x86 build for older processors leaves all to oneDNN, which finds out what the processor can
// do.
bool onednn_is_faster([[maybe_unused]] const Matmul& x) {
#if defined(__x86_64__) && !defined(__AVX512F__)
    return true;
#else
    return !x.b.transposed && (!x.a.transposed || x.k > kPackingRows.depth);
#endif
}

void multiply_with_onednn(const Matmul& x) {
    const OneThread alone;
    const dnnl::status status = dnnl::sgemm(
        x.a.transposed ? 'T' : 'N', x.b.transposed ? 'T' : 'N', x.m, x.n, x.k, 1.0f, x.a.f32(),
        x.a.stride, x.b.f32(), x.b.stride, x.accumulate ? 1.0f : 0.0f, x.c.f32(), x.stride);
    FOMOE_CHECK(status == dnnl::status::success, "oneDNN sgemm ", x.m, " x ", x.n, " x ", x.k);
}

// Cut `size` into `parts` at multiples of `unit`; the begin of `part`.
int64_t cut(int64_t size, int part, int parts, int64_t unit) {
    const int64_t units = (size + unit - 1) / unit;
    return std::min(size, units * part / parts * unit);
}

}  // namespace

Matmul Matmul::rows(int64_t begin, int64_t end) const {
    Matmul part = *this;
    part.c.skip(begin * stride);
    part.a.skip(begin * (a.transposed ? 1 : a.stride));
    part.m = end - begin;
    return part;
}

Matmul Matmul::columns(int64_t begin, int64_t end) const {
    Matmul part = *this;
    part.c.skip(begin);
    part.b.skip(begin * (b.transposed ? b.stride : 1));
    part.n = end - begin;
    return part;
}

Put Matmul::put(bool first, bool last) const {
    if (accumulate || !first) return Put::add;
    const bool lines = reinterpret_cast<uintptr_t>(c.data) % 64 == 0 && stride % 16 == 0;
    return stream && last && lines && c.dtype == DType::f32 ? Put::stream : Put::set;
}

// A grid of parts whose tiles are as near to square as the number of parts allows.
Matmul Matmul::share(int part, int parts) const {
    int across = 1;
    int64_t least = INT64_MAX;
    for (int c = 1; c <= parts; ++c) {
        if (parts % c != 0) continue;
        const int64_t edges = (m * c + parts - 1) / parts + kTileRows + (n + c - 1) / c + kWidth;
        if (edges < least) least = edges, across = c;
    }
    const bool tiles = a.dtype == DType::bf16 && b.dtype == DType::bf16 && cpu_has_tiles();
    const int64_t high = tiles ? 32 : kTileRows, wide = tiles ? 32 : kWidth;  // of a kernel's tile
    const int down = parts / across, row = part / across, column = part % across;
    return rows(cut(m, row, down, high), cut(m, row + 1, down, high))
        .columns(cut(n, column, across, wide), cut(n, column + 1, across, wide));
}

void multiply(const Matmul& x) {
    if (x.m <= 0 || x.n <= 0) return;
    if (x.k <= 0) {
        for (int64_t i = 0; i < x.m && !x.accumulate; ++i)
            std::memset(x.rows(i, i + 1).c.data, 0, x.n * size_of(x.c.dtype));
        return;
    }
    const bool narrow_a = x.a.dtype == DType::bf16, narrow_b = x.b.dtype == DType::bf16;
    if (narrow_a && narrow_b && cpu_has_tiles()) return multiply_tiles(x);
    if (narrow_a && narrow_b && cpu_multiplies_bf16()) return multiply_narrow(x);
    if (narrow_a || narrow_b || x.c.dtype == DType::bf16) return multiply_widened(x);
    if (onednn_is_faster(x)) return multiply_with_onednn(x);
    const bool packing = x.a.transposed;
    const Blocks block = packing ? kPackingRows : kReadingRows;
    float* panels = tile_scratch(kScratch);
    float* slivers = panels + block.panels();
    for (int64_t p = 0; p < x.k; p += block.depth) {
        const int64_t depth = std::min(block.depth, x.k - p);
        const Put how = x.put(p == 0, p + depth == x.k);
        for (int64_t n = 0; n < x.n; n += block.columns) {
            const int64_t columns = std::min(block.columns, x.n - n);
            pack_panels(panels, x.b, p, depth, n, columns);
            for (int64_t m = 0; m < x.m; m += block.rows) {
                const int64_t rows = std::min(block.rows, x.m - m);
                const float* a = x.a.f32() + (packing ? p * x.a.stride + m : m * x.a.stride + p);
                if (packing) pack_rows(slivers, a, x.a.stride, rows, depth);
                for (int64_t j = 0; j < columns; j += kWidth) {
                    const int64_t width = std::min(kWidth, columns - j);
                    const int64_t vecs = (width + kLanes - 1) / kLanes;
                    for (int64_t i = 0; i < rows; i += kTileRows) {
                        const int64_t height = std::min<int64_t>(kTileRows, rows - i);
                        const TileKernel kernel = kernel_for(height, vecs, packing);
                        const float* left = packing ? slivers + i * depth : a + i * x.a.stride;
                        float* c = x.c.f32() + (m + i) * x.stride + n + j;
                        if (width == vecs * kLanes) {
                            kernel(depth, left, x.a.stride, panels + j * depth, c, x.stride, how);
                        } else {
                            multiply_edge(kernel, height, width, depth, left, x.a.stride,
                                          panels + j * depth, c, x.stride, how);
                        }
                    }
                }
            }
        }
    }
    if (x.stream) end_stream();
}

}  // namespace fomoe
