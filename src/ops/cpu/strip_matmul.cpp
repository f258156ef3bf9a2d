#include "ops/cpu/strip_matmul.h"

namespace fomoe {

#ifdef FOMOE_TILES

namespace {

// The words of 16 rows, `column` apart along k, row by row.
void turn_rows(Pair* to, const Pair* from, int64_t column, int64_t words) {
    Vec block[kTileEdge];
    for (int64_t k = 0; k < kTileEdge; ++k)
        block[k] = k < words ? load_words(from + k * column) : Vec{};
    transpose_lanes(block);
    for (int64_t i = 0; i < kTileEdge; ++i) store_words(to + i * kTileEdge, block[i]);
}

template <int kAcross>
void strip_kernel(int64_t K, TileView<Pair> a, const Pair* b, int64_t b_row, float* sums) {
    alignas(64) Pair turned[kTileWords];
    const int64_t b_bytes = b_row * sizeof(Pair);
    _tile_zero(0);
    if constexpr (kAcross > 1) _tile_zero(1);
    if constexpr (kAcross > 2) _tile_zero(2);
    if constexpr (kAcross > 3) _tile_zero(3);
    for (int64_t k = 0; k < K; k += kTileEdge, b += kTileEdge * b_row) {
        const Pair* left = a.data + k * a.column;
        int64_t left_bytes = a.row * sizeof(Pair);
        // The loads of tiles do not say what they read: no store may pass one.
        asm volatile("" ::: "memory");
        if (a.column != 1) {
            turn_rows(turned, left, a.column, K - k);
            left = turned, left_bytes = kTileRowBytes;
            asm volatile("" ::: "memory");
        }
        if (K - k >= kTileEdge) {
            _tile_loadd(4, left, left_bytes);
            _tile_loadd(5, b, b_bytes);
            _tile_dpbf16ps(0, 4, 5);
            if constexpr (kAcross > 1) {
                _tile_loadd(5, b + kTileEdge, b_bytes);
                _tile_dpbf16ps(1, 4, 5);
            }
            if constexpr (kAcross > 2) {
                _tile_loadd(5, b + 2 * kTileEdge, b_bytes);
                _tile_dpbf16ps(2, 4, 5);
            }
            if constexpr (kAcross > 3) {
                _tile_loadd(5, b + 3 * kTileEdge, b_bytes);
                _tile_dpbf16ps(3, 4, 5);
            }
        } else {
            _tile_loadd(6, left, left_bytes);
            _tile_loadd(7, b, b_bytes);
            _tile_dpbf16ps(0, 6, 7);
            if constexpr (kAcross > 1) {
                _tile_loadd(7, b + kTileEdge, b_bytes);
                _tile_dpbf16ps(1, 6, 7);
            }
            if constexpr (kAcross > 2) {
                _tile_loadd(7, b + 2 * kTileEdge, b_bytes);
                _tile_dpbf16ps(2, 6, 7);
            }
            if constexpr (kAcross > 3) {
                _tile_loadd(7, b + 3 * kTileEdge, b_bytes);
                _tile_dpbf16ps(3, 6, 7);
            }
        }
    }
    constexpr int64_t kRow = kStrip * sizeof(float);
    _tile_stored(0, sums, kRow);
    if constexpr (kAcross > 1) _tile_stored(1, sums + kTileEdge, kRow);
    if constexpr (kAcross > 2) _tile_stored(2, sums + 2 * kTileEdge, kRow);
    if constexpr (kAcross > 3) _tile_stored(3, sums + 3 * kTileEdge, kRow);
}

}  // namespace

void multiply_strip(int64_t N, int64_t K, TileView<Pair> a, const Pair* b, int64_t b_row,
                    float* sums) {
    static constexpr decltype(&strip_kernel<1>) kKernels[] = {strip_kernel<1>, strip_kernel<2>,
                                                              strip_kernel<3>, strip_kernel<4>};
    kKernels[N / kTileEdge - 1](K, a, b, b_row, sums);
}

#endif

}  // namespace fomoe
