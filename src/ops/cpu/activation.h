// The activation of one row and its gradient, for Activate and the experts. Rows lie in f32 or
// bf16, T, and are computed in f32.
#pragma once

#include <cstdint>

#include "ops/experts.h"

namespace fomoe {

// a (F) from hidden (U F), which may not be rounded yet.
template <class Hidden, class T>
void activate_row(Activation activation, int64_t F, const Hidden* hidden, T* a);

// dhidden (U F) from da (F) and hidden; dhidden may be hidden.
template <class T>
void activate_row_backward(Activation activation, int64_t F, const T* hidden, const T* da,
                           T* dhidden);

// The row of an expert whose gate is `gate`, given t (F) = dy W_out: dhidden (U F) for da = gate t.
// Leaves gate * a in t and returns dot(t, a), the gradient of the gate.
template <class T>
float activate_row_gated_backward(Activation activation, int64_t F, float gate, const T* hidden,
                                  T* t, T* dhidden);

}  // namespace fomoe
