// Activations lie in f32 or bf16 and are computed in f32: kernels are templates of the element
// type, and these are the steps between.
#pragma once

#include "base/error.h"
#include "tensor/tensor.h"

namespace fomoe {

inline float to_f32(float x) { return x; }

// x rounded to T.
template <class T>
T rounded(float x);
template <>
inline float rounded<float>(float x) {
    return x;
}
template <>
inline bf16 rounded<bf16>(float x) {
    return to_bf16(x);
}

// Calls body with a null pointer to the element type, float or bf16.
template <class Body>
void with_element(DType dtype, Body body) {
    FOMOE_CHECK(dtype == DType::f32 || dtype == DType::bf16, "an activation in ", name_of(dtype));
    if (dtype == DType::bf16)
        body(static_cast<const bf16*>(nullptr));
    else
        body(static_cast<const float*>(nullptr));
}

}  // namespace fomoe
