// Matmul of bf16 operands in the tile registers of AMX: one instruction adds the products of 16
// rows of a with 16 columns of b, over 16 words of two neighbours along k. Four such sums are held
// at a time, of 32 rows and 32 columns. Both operands are packed into tiles on cache lines: a tile
// that is loaded across them takes four times as long.
#include "ops/cpu/matmul.h"
#include "ops/cpu/matmul_pairs.h"
#include "ops/cpu/tile_registers.h"

#ifdef FOMOE_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fomoe {

#ifdef FOMOE_TILES

namespace {

// sums (kDown x kAcross tiles, in rows of 32) = a times a panel. The tiles of a that lie below each
// other are `a_next` words apart.
template <int kDown, int kAcross>
void tile_kernel(int64_t pairs, const Word* a, int64_t a_next, const Word* panel, float* sums) {
    constexpr int64_t kRow = kAcross * kTileRowBytes, kSums = 2 * kTileRowBytes;
    clear_register<0>();
    if constexpr (kAcross > 1) clear_register<1>();
    if constexpr (kDown > 1) clear_register<2>();
    if constexpr (kDown > 1 && kAcross > 1) clear_register<3>();
    for (int64_t p = 0; p < pairs; p += kTileEdge, a += kTileWords, panel += kAcross * kTileWords) {
        load_register<4>(a, kTileRowBytes);
        load_register<6>(panel, kRow);
        multiply_registers<0, 4, 6>();
        if constexpr (kAcross > 1) {
            load_register<7>(panel + kTileEdge, kRow);
            multiply_registers<1, 4, 7>();
        }
        if constexpr (kDown > 1) {
            load_register<5>(a + a_next, kTileRowBytes);
            multiply_registers<2, 5, 6>();
        }
        if constexpr (kDown > 1 && kAcross > 1) multiply_registers<3, 5, 7>();
    }
    store_register<0>(sums, kSums);
    if constexpr (kAcross > 1) store_register<1>(sums + kTileEdge, kSums);
    if constexpr (kDown > 1) store_register<2>(sums + 2 * kTileWords, kSums);
    if constexpr (kDown > 1 && kAcross > 1)
        store_register<3>(sums + 2 * kTileWords + kTileEdge, kSums);
}

// See multiply_blocks.
struct ByTiles {
    static constexpr int64_t kWidth = 2 * kTileEdge, kRows = 2 * kTileEdge, kPairs = kTileEdge;
    static constexpr int64_t kPanels = 1024 * 256, kSlivers = 256 * 256;

    // 16 rows, then 16 pairs, then row by row; zeros behind the end.
    static const Word* pack(Word* to, const bf16* from, const Matmul& x, int64_t rows,
                            int64_t depth, int64_t pairs) {
        const auto tile_at = [&](int64_t i, int64_t pair) {
            return to + i * pairs + pair * kTileEdge;
        };
        const int64_t stride = x.a.stride;
        if (!x.a.transposed) {
            for (int64_t i = 0; i < (rows + kTileEdge - 1) / kTileEdge * kTileEdge; ++i)
                for (int64_t pair = 0; pair < pairs; pair += kTileEdge) {
                    const __m512i row = i < rows
                                            ? words(from + i * stride + 2 * pair, depth - 2 * pair)
                                            : __m512i{};
                    _mm512_store_si512(
                        tile_at(i / kTileEdge * kTileEdge, pair) + i % kTileEdge * kTileEdge, row);
                }
            return to;
        }
        for (int64_t pair = 0; pair < pairs; pair += kTileEdge)
            for (int64_t i = 0; i < rows; i += kTileEdge) {
                Vec tile[kTileEdge];
                for (int64_t p = 0; p < kTileEdge; ++p) {
                    const int64_t k = 2 * (pair + p);
                    const bf16* row = from + k * stride + i;
                    tile[p] =
                        k < depth ? (Vec)paired(row, row + stride, k + 1 < depth, rows - i) : Vec{};
                }
                transpose_lanes(tile);
                for (int64_t r = 0; r < kTileEdge; ++r)
                    _mm512_store_si512(tile_at(i, pair) + r * kTileEdge, (__m512i)tile[r]);
            }
        return to;
    }

    template <class T>
    static void multiply(const Word* a, const Word* panels, int64_t pairs, int64_t rows,
                         int64_t columns, T* c, int64_t stride, Put how) {
        alignas(64) float sums[4 * kTileWords];
        for (int64_t j = 0; j < columns; j += kWidth) {
            const int64_t width = std::min(kWidth, columns - j);
            for (int64_t i = 0; i < rows; i += kRows) {
                const int64_t height = std::min(kRows, rows - i);
                static constexpr decltype(&tile_kernel<1, 1>) kKernels[] = {
                    tile_kernel<1, 1>, tile_kernel<1, 2>, tile_kernel<2, 1>, tile_kernel<2, 2>};
                const auto kernel = kKernels[(height > kTileEdge) * 2 + (width > kTileEdge)];
                kernel(pairs, a + i * pairs, kTileEdge * pairs, panels + j * pairs, sums);
                store_tile<kWidth>(c + i * stride + j, stride, sums, height, width, how);
            }
        }
    }
};

}  // namespace

bool cpu_has_tiles() {
    static const bool has = [] {
        constexpr int kRequestPermission = 0x1023, kTileData = 18;
        return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    }();
    return has;
}

void multiply_tiles(const Matmul& x) {
    const TileRegisters registers(kWholeTiles);
    multiply_by<ByTiles>(x);
}

#else

bool cpu_has_tiles() { return false; }

void multiply_tiles(const Matmul&) {}

#endif

}  // namespace fomoe
