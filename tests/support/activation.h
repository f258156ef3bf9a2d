// The nonlinearities of an MLP in f64, for the reference.
#pragma once

#include <cmath>

#include "ops/experts.h"

namespace fomoe {

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double normal_cdf(double x) { return 0.5 * (1 + std::erf(x / std::sqrt(2.0))); }

// a(x) of one element; for swiglu that of the gate.
inline double activate(Activation activation, double x) {
    switch (activation) {
        case Activation::swiglu:
        case Activation::silu:
            return x * sigmoid(x);
        case Activation::relu:
            return x > 0 ? x : 0;
        case Activation::gelu:
            return x * normal_cdf(x);
    }
    return 0;
}

inline double activate_slope(Activation activation, double x) {
    switch (activation) {
        case Activation::swiglu:
        case Activation::silu:
            return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
        case Activation::relu:
            return x > 0 ? 1 : 0;
        case Activation::gelu:
            return normal_cdf(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
    }
    return 0;
}

// Element f of y = a(hidden), hidden being one row of U F elements.
inline double hidden_value(Activation activation, const double* hidden, int64_t F, int64_t f) {
    const double a = activate(activation, hidden[f]);
    return activation == Activation::swiglu ? a * hidden[F + f] : a;
}

// The gradient of a row of hidden from the gradient dy of element f of y.
inline void hidden_gradient(Activation activation, double* dhidden, double dy, const double* hidden,
                            int64_t F, int64_t f) {
    const double slope = activate_slope(activation, hidden[f]);
    if (activation == Activation::swiglu) {
        dhidden[f] = dy * hidden[F + f] * slope;
        dhidden[F + f] = dy * activate(activation, hidden[f]);
    } else {
        dhidden[f] = dy * slope;
    }
}

}  // namespace fomoe
