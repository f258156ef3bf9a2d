// mma.sync: D = A B + C with A [16, k] by rows, B [k, 8] by columns, C and D [16, 8]. PTX
// ISA 9.7.14. Products are exact in f32, or nearly so for tf32, sums are of f32 in order of k.
#include <algorithm>

#include "exec/decoders.h"
#include "exec/lanes.h"

namespace cudaemu {
namespace {

constexpr int kRows = 16, kColumns = 8;

// Element types: how many lie in a register, and their value.
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

// Four lanes hold a row of A, or a column of B, each kPerCell neighbours; further registers hold
// further blocks of 4 kPerCell along k. Registers 2i and 2i + 1 of A hold rows 0-7 and 8-15.
template <class E, int depth>
struct Fragments {
    static constexpr int kBlock = 4 * E::kPerCell;  // of k, in one register of a warp
    static constexpr int kBlocks = depth / kBlock;  // registers of B; A has twice as many

    alignas(64) float a[kRows][depth];
    alignas(64) float b[depth][kColumns];

    void load(const Warp& warp, const Instruction& i, int first_a, int first_b) {
        for (int block = 0; block < kBlocks; ++block) {
            for (int half = 0; half < 2; ++half) {
                const uint32_t* cell = cells(warp, i, first_a + 2 * block + half);
                for (int lane = 0; lane < 32; ++lane)
                    for (int e = 0; e < E::kPerCell; ++e)
                        a[8 * half + lane / 4][kBlock * block + lane % 4 * E::kPerCell + e] =
                            E::value(cell[lane], e);
            }
            const uint32_t* cell = cells(warp, i, first_b + block);
            for (int pair = 0; pair < 4; ++pair)
                for (int e = 0; e < E::kPerCell; ++e)
                    for (int n = 0; n < kColumns; ++n)
                        b[kBlock * block + pair * E::kPerCell + e][n] =
                            E::value(cell[4 * n + pair], e);
        }
    }

    void multiply_add(float (&c)[kRows][kColumns]) const {
        for (int row = 0; row < kRows; ++row)
            for (int k = 0; k < depth; ++k)
                for (int n = 0; n < kColumns; ++n)
                    c[row][n] = std::fma(a[row][k], b[k][n], c[row][n]);
    }
};

// Lane 4r + p holds columns 2p and 2p + 1: of row r in the first half of the registers, of row r +
// 8 in the second.
void load_c(const Warp& warp, const Instruction& i, int first, float (&c)[kRows][kColumns]) {
    for (int reg = 0; reg < 4; ++reg) {
        const uint32_t* cell = cells(warp, i, first + reg);
        for (int lane = 0; lane < 32; ++lane)
            c[8 * (reg / 2) + lane / 4][lane % 4 * 2 + reg % 2] = std::bit_cast<float>(cell[lane]);
    }
}

void store_d(const Warp& warp, const Instruction& i, const float (&d)[kRows][kColumns]) {
    for (int reg = 0; reg < 4; ++reg) {
        uint32_t* cell = cells(warp, i, reg);
        for (int lane = 0; lane < 32; ++lane)
            cell[lane] = std::bit_cast<uint32_t>(
                canonical(d[8 * (reg / 2) + lane / 4][lane % 4 * 2 + reg % 2]));
    }
}

template <class E, int depth>
void run_mma(Warp& warp, const Instruction& i, uint32_t) {
    constexpr int kA = 4, kB = kA + 2 * Fragments<E, depth>::kBlocks;
    constexpr int kC = kB + Fragments<E, depth>::kBlocks;
    Fragments<E, depth> fragments;
    fragments.load(warp, i, kA, kB);
    alignas(64) float c[kRows][kColumns];
    load_c(warp, i, kC, c);
    fragments.multiply_add(c);
    store_d(warp, i, c);
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
