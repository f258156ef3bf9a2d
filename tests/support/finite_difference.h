// Gradients by central differences of the f64 reference, held against a backward op.
#pragma once

#include <algorithm>

#include "support/op_test.h"

namespace fomoe {

inline constexpr double kGradientBound = 1e-9;  // of the NMSE

inline double dot(ConstTensor a, ConstTensor b) {
    const std::vector<double> x = values(a), y = values(b);
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
    return sum;
}

// What an op added to an output.
inline std::vector<double> added(ConstTensor before, ConstTensor after) {
    std::vector<double> change = values(after);
    const std::vector<double> old = values(before);
    for (size_t i = 0; i < change.size(); ++i) change[i] -= old[i];
    return change;
}

// Checks gradient[i] = d loss / d x[i]. x (f64) is what loss() reads. Of a large x every so many
// elements are tried.
template <class Loss>
void check_gradient(const char* what, Loss loss, ConstTensor x,
                    const std::vector<double>& gradient) {
    constexpr size_t kTried = 400;
    double* value = const_cast<double*>(x.as<double>());
    std::vector<double> given, measured;
    const size_t stride = gradient.size() / kTried + 1;
    for (size_t i = 0; i < gradient.size(); i += stride) {
        const double old = value[i], h = 3e-5 * std::max(1.0, std::abs(old));
        value[i] = old + h;
        const double up = loss();
        value[i] = old - h;
        const double down = loss();
        value[i] = old;
        given.push_back(gradient[i]);
        measured.push_back((up - down) / (2 * h));
    }
    // Where the loss is flat the differences still hold rounding errors.
    for (double& d : measured)
        if (std::abs(d) < 1e-10) d = 0;
    const double error = nmse(given, measured);
    INFO("gradient of " << what << ": NMSE " << error);
    CHECK(error <= kGradientBound);
}

// One small case of a backward op that ran on a backend.
template <class Op>
struct Differentiated {
    const Op& before;  // f32
    const Op& after;   // f32
    const Op& wide;    // f64, as before
    Pool& pool;

    Tensor output(Shape shape) const { return pool.blank(shape, DType::f64); }
};

// Calls body(Differentiated<Op>) for every small case. `body` writes the loss as a dot product of
// the forward reference's outputs with the gradients that the backward op was given.
template <class Op, class Body>
void differentiate_cases(Backend& backend, Body body) {
    for (const Case<Op>& each : cases<Op>()) {
        if (each.size != Size::small) continue;
        INFO(Op::name << ", case " << each.name);
        Pool pool = each.pool();
        const Op op = each.build(pool);
        const Op after = run_on(backend, op, pool);
        const Op wide = widened(op, pool);
        body(Differentiated<Op>{op, after, wide, pool});
    }
}
template <class Op, class Body>
void differentiate_cases(Body body) {
    differentiate_cases<Op>(*make_cpu_backend(2), body);
}

}  // namespace fomoe
