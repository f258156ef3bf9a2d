// mma.sync: D = A B + C with A [16, k] by rows, B [k, 8] by columns, C and D [16, 8]. PTX
// ISA 9.7.14. Products of these types are exact in f32, sums are of f32 in order of k.
#include "exec/decoders.h"
#include "exec/lanes.h"

namespace cudaemu {
namespace {

// The eight columns of a row of C, in the order 0 2 4 6 1 3 5 7, as two registers hold them.
using Row = float __attribute__((vector_size(32)));

constexpr int kHalf = 8;  // rows of A and C in a register; columns of B

constexpr int place_of(int column) { return column / 2 + column % 2 * 4; }

// Element types: how many lie in a register of a lane, and their value.
struct OfBf16 {
    static constexpr int kPerCell = 2;
    static float value(uint32_t cell, int which) {
        return std::bit_cast<float>(which ? cell & 0xffff0000 : cell << 16);
    }
};
struct OfHalf {
    static constexpr int kPerCell = 2;
    static float value(uint32_t cell, int which) {
        return Half{static_cast<uint16_t>(which ? cell >> 16 : cell)};
    }
};
struct OfTf32 {  // the lower 13 bits do not take part
    static constexpr int kPerCell = 1;
    static float value(uint32_t cell, int) { return std::bit_cast<float>(cell & 0xffffe000); }
};

// A register of a warp holds 8 rows of A, or 8 columns of B, by 4 cells along k: lane 4r + p has
// cell p of row r. Registers 2i and 2i + 1 of A hold rows 0-7 and 8-15 of block i of k, register i
// of B has block i.
template <class E, int depth>
struct Fragments {
    static constexpr int kBlocks = depth / (4 * E::kPerCell);

    alignas(64) float a[2 * kBlocks][E::kPerCell][32];    // [register, element of a cell, lane]
    alignas(64) float b[kBlocks][4][E::kPerCell][kHalf];  // [.., .., .., place of the column]

    void load(const Warp& warp, const Instruction& i, int first_a, int first_b) {
        for (int reg = 0; reg < 2 * kBlocks; ++reg) {
            const uint32_t* cell = cells(warp, i, first_a + reg);
            for (int e = 0; e < E::kPerCell; ++e)
                for (int lane = 0; lane < 32; ++lane) a[reg][e][lane] = E::value(cell[lane], e);
        }
        for (int block = 0; block < kBlocks; ++block) {
            const uint32_t* cell = cells(warp, i, first_b + block);
            alignas(64) uint32_t transposed[4][kHalf];
            for (int column = 0; column < kHalf; ++column)
                for (int p = 0; p < 4; ++p) transposed[p][place_of(column)] = cell[4 * column + p];
            for (int p = 0; p < 4; ++p)
                for (int e = 0; e < E::kPerCell; ++e)
                    for (int n = 0; n < kHalf; ++n)
                        b[block][p][e][n] = E::value(transposed[p][n], e);
        }
    }

    // Rows 8 half .. 8 half + 7 of the product.
    void multiply_add(int half, Row (&c)[kHalf]) const {
        for (int block = 0; block < kBlocks; ++block) {
            for (int p = 0; p < 4; ++p) {
                for (int e = 0; e < E::kPerCell; ++e) {
                    Row columns;
                    std::memcpy(&columns, b[block][p][e], sizeof columns);
                    const float* rows = &a[2 * block + half][e][p];
                    for (int row = 0; row < kHalf; ++row) c[row] += rows[4 * row] * columns;
                }
            }
        }
    }
};

template <class E, int depth>
void run_mma(Warp& warp, const Instruction& i, uint32_t) {
    constexpr int kA = 4, kB = kA + 2 * Fragments<E, depth>::kBlocks;
    constexpr int kC = kB + Fragments<E, depth>::kBlocks;
    Fragments<E, depth> fragments;
    fragments.load(warp, i, kA, kB);
    Row c[2][kHalf];
    for (int half = 0; half < 2; ++half) {
        const uint32_t* even = cells(warp, i, kC + 2 * half);
        const uint32_t* odd = cells(warp, i, kC + 2 * half + 1);
        for (int row = 0; row < kHalf; ++row) {
            std::memcpy(&c[half][row], even + 4 * row, 16);
            std::memcpy(reinterpret_cast<char*>(&c[half][row]) + 16, odd + 4 * row, 16);
        }
        fragments.multiply_add(half, c[half]);
    }
    // Only now: D may be the registers of C, in any order.
    for (int half = 0; half < 2; ++half) {
        uint32_t* even = cells(warp, i, 2 * half);
        uint32_t* odd = cells(warp, i, 2 * half + 1);
        for (int row = 0; row < kHalf; ++row) {
            Row& d = c[half][row];
            for (int n = 0; n < kHalf; ++n) d[n] = canonical(d[n]);
            std::memcpy(even + 4 * row, &d, 16);
            std::memcpy(odd + 4 * row, reinterpret_cast<char*>(&d) + 16, 16);
        }
    }
}

template <class E, int depth>
Semantics mma() {
    Semantics semantics;
    semantics.run = run_mma<E, depth>;
    semantics.slots.assign(4, Slot::def32);
    semantics.slots.resize(4 + 3 * Fragments<E, depth>::kBlocks + 4, Slot::use32);
    semantics.flow = Flow::aligned;
    return semantics;
}

}  // namespace

std::optional<Semantics> decode_mma(Form& form) {
    if (!form.take("sync") || !form.take("aligned")) return std::nullopt;
    const int shape = form.take_any({"m16n8k4", "m16n8k8", "m16n8k16"});
    if (!form.take("row") || !form.take("col")) return std::nullopt;
    const Type d = form.take_type(), a = form.take_type(), b = form.take_type(),
               c = form.take_type();
    if (d != Type::f32 || c != Type::f32 || a != b) return std::nullopt;
    if (a == Type::bf16 && shape == 1) return mma<OfBf16, 8>();
    if (a == Type::bf16 && shape == 2) return mma<OfBf16, 16>();
    if (a == Type::f16 && shape == 1) return mma<OfHalf, 8>();
    if (a == Type::f16 && shape == 2) return mma<OfHalf, 16>();
    if (a == Type::tf32 && shape == 0) return mma<OfTf32, 4>();
    if (a == Type::tf32 && shape == 1) return mma<OfTf32, 8>();
    return std::nullopt;
}

}  // namespace cudaemu
