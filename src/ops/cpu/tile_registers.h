// The tile registers of AMX, and whether the operating system lets this process have them.
#pragma once

#include <cstdint>

#include "ops/cpu/tile.h"

// Vectors of bf16 are there wherever tiles are; a build that has only one of them has none of this.
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define FOMOE_TILES
#include <immintrin.h>
#endif

namespace fomoe {

// Asks the operating system at the first call.
bool cpu_has_tiles();

#ifdef FOMOE_TILES

inline constexpr int64_t kTileEdge = 16;  // rows, and words of a row, of a tile
inline constexpr int64_t kTileWords = kTileEdge * kTileEdge;
inline constexpr int64_t kTileRowBytes = kTileEdge * 4;

// What the instruction that shapes the registers reads.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    // All whole; with halves, the last two are a left operand of half the words and a right one of
    // half the rows.
    constexpr explicit TileShapes(bool halves) {
        for (int i = 0; i < 8; ++i) row_bytes[i] = kTileRowBytes, rows[i] = kTileEdge;
        if (halves) row_bytes[6] = kTileRowBytes / 2, rows[7] = kTileEdge / 2;
    }
};
inline constexpr TileShapes kWholeTiles(false), kTilesAndHalves(true);

// The registers of the calling thread, given up at the end: then the operating system has less to
// save.
class TileRegisters {
public:
    explicit TileRegisters(const TileShapes& shapes) { _tile_loadconfig(&shapes); }
    ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

// The instructions, with the numbers of registers as constants of the program; no other access to
// memory passes them. Rows in memory are `stride` bytes apart.
template <int kTo>
void load_register(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTo) : "memory");
}
template <int kFrom>
void store_register(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kFrom) : "memory");
}
template <int kTo>
void clear_register() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTo));
}
// sum += left * right.
template <int kSum, int kLeft, int kRight>
void multiply_registers() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

#endif

}  // namespace fomoe
