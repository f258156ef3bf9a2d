// Matmuls of attention's tiles in the tile registers of AMX.
#pragma once

#include "ops/cpu/tile_matmul.h"
#include "ops/cpu/tile_registers.h"

namespace fomoe {

#ifdef FOMOE_TILES

inline constexpr int64_t kStrip = 64;  // columns

// sums (16 x kStrip) = a (16 x K words) times b (K x N): N a multiple of 16, at most kStrip, and K
// of 8.
void multiply_strip(int64_t N, int64_t K, TileView<Pair> a, const Pair* b, int64_t b_row,
                    float* sums);

// As VectorMultiply, but for operands that have zeros up to a whole half tile of words. Of one
// thread, whose tile registers it has while it lives.
class StripMultiply {
public:
    using Word = Pair;
    static constexpr int kBlock = 16;

    template <class Put>
    void rows(int64_t N, int64_t K, TileView<Pair> a, const Pair* b, int64_t b_row, float* c,
              int64_t c_row, Put put) const {
        constexpr int64_t kHalf = kTileEdge / 2;
        alignas(64) float sums[kBlock * kStrip];
        for (int64_t n = 0; n < N; n += kStrip) {
            const int64_t width = std::min(kStrip, N - n);
            multiply_strip(width, (K + kHalf - 1) / kHalf * kHalf, a, b + n, b_row, sums);
            for (int i = 0; i < kBlock; ++i)
                for (int64_t v = 0; v < width; v += kLanes) {
                    float* to = c + i * c_row + n + v;
                    store(to, put(load(sums + i * kStrip + v), to, i));
                }
        }
    }

private:
    TileRegisters registers_{kTilesAndHalves};
};

#endif

// Calls body with null pointers to the element type and to what multiplies its tiles.
template <class Body>
void with_multiply(DType dtype, Body body) {
    with_element(dtype, [&]<class T>(const T* element) {
#ifdef FOMOE_TILES
        if constexpr (std::is_same_v<T, bf16>)
            if (cpu_has_tiles()) return body(element, static_cast<const StripMultiply*>(nullptr));
#endif
        body(element, static_cast<const VectorMultiply<WordOf<T>>*>(nullptr));
    });
}

}  // namespace fomoe
