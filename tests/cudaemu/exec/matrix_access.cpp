// ldmatrix, stmatrix, movmatrix: 8x8 matrices of 16-bit elements. PTX ISA 9.7.14.5. A matrix lies
// in one register of a warp: lane 4r + c holds elements (r, 2c) and (r, 2c + 1), the first in the
// lower half, so that its 32 cells in order are the matrix by rows.
#include <algorithm>

#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/memory.h"

namespace cudaemu {
namespace {

constexpr int kRows = 8;
constexpr uint32_t kRowBytes = 16;

using Matrix = std::array<std::array<uint16_t, kRows>, kRows>;

Matrix transposed(const Matrix& matrix) {
    Matrix result;
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kRows; ++c) result[c][r] = matrix[r][c];
    return result;
}

// The lanes 8m .. 8m + 7 hold the addresses of the rows of matrix m.
template <int count, bool transpose>
void run_load(Warp& warp, const Instruction& i, uint32_t) {
    constexpr auto kLanes = static_cast<uint32_t>((uint64_t{1} << (kRows * count)) - 1);
    Pointers rows;
    resolve(warp, i, kLanes, {static_cast<StateSpace>(i.options), kRowBytes, Access::read},
            addresses(warp, i, count), rows);
    for (int m = 0; m < count; ++m) {
        Matrix matrix;
        for (int r = 0; r < kRows; ++r)
            std::memcpy(matrix[r].data(), rows[m * kRows + r], kRowBytes);
        if (transpose) matrix = transposed(matrix);
        std::memcpy(cells(warp, i, m), matrix.data(), sizeof matrix);
    }
}

template <int count, bool transpose>
void run_store(Warp& warp, const Instruction& i, uint32_t) {
    constexpr auto kLanes = static_cast<uint32_t>((uint64_t{1} << (kRows * count)) - 1);
    Pointers rows;
    resolve(warp, i, kLanes, {static_cast<StateSpace>(i.options), kRowBytes, Access::write},
            addresses(warp, i, 0), rows);
    for (int m = 0; m < count; ++m) {
        Matrix matrix;
        std::memcpy(matrix.data(), cells(warp, i, m + 1), sizeof matrix);
        if (transpose) matrix = transposed(matrix);
        for (int r = 0; r < kRows; ++r)
            std::memcpy(rows[m * kRows + r], matrix[r].data(), kRowBytes);
    }
}

void run_move(Warp& warp, const Instruction& i, uint32_t) {
    Matrix matrix;
    std::memcpy(matrix.data(), cells(warp, i, 1), sizeof matrix);
    matrix = transposed(matrix);
    std::memcpy(cells(warp, i, 0), matrix.data(), sizeof matrix);
}

template <int count>
Semantics access(bool loads, bool transpose) {
    Semantics semantics;
    semantics.run = loads ? (transpose ? run_load<count, true> : run_load<count, false>)
                          : (transpose ? run_store<count, true> : run_store<count, false>);
    semantics.slots.assign(count, loads ? Slot::def32 : Slot::use32);
    semantics.slots.insert(loads ? semantics.slots.end() : semantics.slots.begin(), Slot::address);
    return semantics;
}

}  // namespace

std::optional<Semantics> decode_matrix_access(Form& form) {
    if (!form.take("sync") || !form.take("aligned") || !form.take("m8n8")) return std::nullopt;
    const bool transpose = form.take("trans");
    Semantics semantics;
    if (form.opcode() == "movmatrix") {
        if (!transpose) return std::nullopt;
        semantics = {run_move, {Slot::def32, Slot::use32}};
    } else {
        const int count = form.take_any({"x1", "x2", "x4"});
        const bool loads = form.opcode() == "ldmatrix";
        const StateSpace space = take_space(form);
        if (count < 0 || (space != StateSpace::shared && space != StateSpace::generic))
            return std::nullopt;
        semantics = count == 0   ? access<1>(loads, transpose)
                    : count == 1 ? access<2>(loads, transpose)
                                 : access<4>(loads, transpose);
        semantics.options = static_cast<uint32_t>(space);
    }
    if (!form.take("b16")) return std::nullopt;
    semantics.flow = Flow::aligned;
    return semantics;
}

}  // namespace cudaemu
