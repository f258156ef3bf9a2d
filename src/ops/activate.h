// The nonlinearity of an MLP, for shared experts and dense layers.
#pragma once

#include "ops/experts.h"

namespace fomoe {

// y = a(hidden); for swiglu hidden is [g | u] and y = silu(g) * u.
struct Activate {
    static constexpr const char* name = "activate";
    Tensor y;            // (N, F)
    ConstTensor hidden;  // (N, U F)
    Activation activation = Activation::swiglu;

    static auto operands(auto& op) { return std::tie(op.y, op.hidden); }
    double flops() const { return 0; }
    void check() const {
        const int64_t N = y.shape[0], F = y.shape[1];
        require(name, "y", y, DType::f32, Shape(N, F));
        require(name, "hidden", hidden, DType::f32, Shape(N, matrices_in(activation) * F));
    }
};

struct ActivateBackward {
    static constexpr const char* name = "activate_backward";
    Tensor dhidden;      // (N, U F); may be hidden itself
    ConstTensor dy;      // (N, F)
    ConstTensor hidden;  // (N, U F)
    Activation activation = Activation::swiglu;

    static auto operands(auto& op) { return std::tie(op.dhidden, op.dy, op.hidden); }
    double flops() const { return 0; }
    void check() const {
        const int64_t N = dy.shape[0], F = dy.shape[1];
        const Shape wide(N, matrices_in(activation) * F);
        require(name, "dy", dy, DType::f32, Shape(N, F));
        require(name, "hidden", hidden, DType::f32, wide);
        require(name, "dhidden", dhidden, DType::f32, wide);
    }
};

}  // namespace fomoe
