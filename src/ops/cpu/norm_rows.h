// The RMS norm of one row and its gradient, for RmsNorm and Rope. Rows lie in f32 or bf16.
#pragma once

#include <cmath>

#include "ops/cpu/lanes.h"

namespace fomoe {

inline float rstd_of(float squares, int64_t size, float eps) {
    return 1.0f / std::sqrt(squares / size + eps);
}

template <class T>
float squares_of(const T* x, int64_t size) {
    Vec squares{};
    for_lanes(size, [=, &squares](int64_t d, auto vec) {
        const Vec value = vec.load(x + d);
        squares += value * value;
    });
    return sum_of(squares);
}

// dx from the gradient dy of weight * x * rstd; adds to dweight. With dsum, adds dsum to dx.
template <class Dy, class T>
void norm_row_backward(const Dy* dy, const T* x, const float* weight, float rstd, const T* dsum,
                       T* dx, float* dweight, int64_t size) {
    Vec dot{};
    for_lanes(size, [=, &dot](int64_t d, auto vec) {
        const Vec g = vec.load(dy + d) * vec.load(x + d) * rstd;
        vec.store(dweight + d, vec.load(dweight + d) + g);
        dot += g * vec.load(weight + d);
    });
    const float along = rstd * rstd * sum_of(dot) / size;
    for_lanes(size, [=](int64_t d, auto vec) {
        const Vec own = rstd * vec.load(weight + d) * vec.load(dy + d) - along * vec.load(x + d);
        vec.store(dx + d, dsum ? vec.load(dsum + d) + own : own);
    });
}

}  // namespace fomoe
