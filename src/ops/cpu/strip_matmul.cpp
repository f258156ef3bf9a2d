#include "ops/cpu/strip_matmul.h"

#include <utility>

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

// The sums in the registers kColumn += one tile of a, in kLeft, times a row of tiles of b, in
// kRight.
template <int kLeft, int kRight, int... kColumn>
void multiply_row(const Pair* a, int64_t a_bytes, const Pair* b, int64_t b_bytes,
                  std::integer_sequence<int, kColumn...>) {
    load_register<kLeft>(a, a_bytes);
    ((load_register<kRight>(b + kColumn * kTileEdge, b_bytes),
      multiply_registers<kColumn, kLeft, kRight>()),
     ...);
}

template <int... kColumn>
void strip_kernel(int64_t K, TileView<Pair> a, const Pair* b, int64_t b_row, float* sums,
                  std::integer_sequence<int, kColumn...> columns) {
    alignas(64) Pair turned[kTileWords];
    const int64_t b_bytes = b_row * sizeof(Pair);
    (clear_register<kColumn>(), ...);
    for (int64_t k = 0; k < K; k += kTileEdge, b += kTileEdge * b_row) {
        const Pair* left = a.data + k * a.column;
        int64_t left_bytes = a.row * sizeof(Pair);
        if (a.column != 1) {
            turn_rows(turned, left, a.column, K - k);
            left = turned, left_bytes = kTileRowBytes;
        }
        if (K - k >= kTileEdge)
            multiply_row<4, 5>(left, left_bytes, b, b_bytes, columns);
        else
            multiply_row<6, 7>(left, left_bytes, b, b_bytes, columns);  // halves
    }
    (store_register<kColumn>(sums + kColumn * kTileEdge, kStrip * sizeof(float)), ...);
}

}  // namespace

void multiply_strip(int64_t N, int64_t K, TileView<Pair> a, const Pair* b, int64_t b_row,
                    float* sums) {
    const auto multiply = [&](auto columns) { strip_kernel(K, a, b, b_row, sums, columns); };
    switch (N / kTileEdge) {
        case 1:
            return multiply(std::make_integer_sequence<int, 1>());
        case 2:
            return multiply(std::make_integer_sequence<int, 2>());
        case 3:
            return multiply(std::make_integer_sequence<int, 3>());
        default:
            return multiply(std::make_integer_sequence<int, 4>());
    }
}

#endif

}  // namespace fomoe
