// The rows of the experts' matmuls: choices sorted by slot, and the way back to the tokens.
#pragma once

#include "cuda/device.cuh"
#include "ops/experts.h"

namespace fomoe {

// Where the row of each choice is and where its input comes from.
struct RowMaps {
    int32_t* row_of;  // (N, K), -1 of a choice without an expert
    int32_t* token;   // (M), written up to the last row
};

// Writes op.choice and op.offset as well.
RowMaps sort_choices(const ExpertsForward& op, const Stream& s);
// The same maps from the choice and the offset of the forward pass.
RowMaps invert_choices(const ExpertsBackward& op, const Stream& s);

// y[n] = (or +=) sum over k of gate[n, k] * rows[row_of[n, k]], in rising k, over those with row_of
// >= 0.
struct ReturnRows {
    Tensor y;               // (N, D)
    ConstTensor rows;       // (M, D) f32 or as y
    const int32_t* row_of;  // (N, K)
    const float* gate;      // (N, K), or null for 1
    int64_t K;
    bool accumulate = false;
};
void return_rows(const ReturnRows& op, const Stream& s);

}  // namespace fomoe
