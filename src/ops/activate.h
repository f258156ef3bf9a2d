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
    static auto computed(auto& op) { return std::tie(op.y, op.hidden); }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "hidden", hidden);
        const int64_t N = y.shape[0], F = y.shape[1];
        require(name, "y", y, C, Shape(N, F));
        require(name, "hidden", hidden, C, Shape(N, matrices_in(activation) * F));
    }
};

struct ActivateBackward {
    static constexpr const char* name = "activate_backward";
    Tensor dhidden;      // (N, U F); may be hidden itself
    ConstTensor dy;      // (N, F)
    ConstTensor hidden;  // (N, U F)
    Activation activation = Activation::swiglu;

    static auto operands(auto& op) { return std::tie(op.dhidden, op.dy, op.hidden); }
    static auto computed(auto& op) { return std::tie(op.dhidden, op.dy, op.hidden); }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "hidden", hidden);
        const int64_t N = dy.shape[0], F = dy.shape[1];
        const Shape wide(N, matrices_in(activation) * F);
        require(name, "dy", dy, C, Shape(N, F));
        require(name, "hidden", hidden, C, wide);
        require(name, "dhidden", dhidden, C, wide);
    }
};

}  // namespace fomoe
