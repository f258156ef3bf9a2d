// The activation of one row and its gradient, for Activate and the experts.
#pragma once

#include <cstdint>

#include "ops/experts.h"

namespace fomoe {

// a (F) from hidden (U F).
void activate_row(Activation activation, int64_t F, const float* hidden, float* a);

// dhidden (U F) from da (F) and hidden; dhidden may be hidden.
void activate_row_backward(Activation activation, int64_t F, const float* hidden, const float* da,
                           float* dhidden);

// The row of an expert whose gate is `gate`, given t (F) = dy W_out: dhidden (U F) for da = gate t.
// Leaves gate * a in t and returns dot(t, a), the gradient of the gate.
float activate_row_gated_backward(Activation activation, int64_t F, float gate, const float* hidden,
                                  float* t, float* dhidden);

}  // namespace fomoe
