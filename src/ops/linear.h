// Dense matmul with a weight in the (outputs, inputs) layout of Hugging Face files.
#pragma once

#include "ops/op.h"

namespace fomoe {

// y = x weight^T, or y += with accumulate.
struct Linear {
    static constexpr const char* name = "linear";
    Tensor y;            // (N, O)
    ConstTensor x;       // (N, I)
    ConstTensor weight;  // (O, I)
    bool accumulate = false;

    static auto operands(auto& op) { return std::tie(op.y, op.x, op.weight); }
    double flops() const { return 2.0 * x.shape[0] * weight.shape[0] * weight.shape[1]; }
    void check() const {
        const int64_t N = x.shape[0], O = weight.shape[0], I = weight.shape[1];
        require(name, "x", x, DType::f32, Shape(N, I));
        require(name, "weight", weight, DType::f32, Shape(O, I));
        require(name, "y", y, DType::f32, Shape(N, O));
    }
};

// dx = dy weight (or += with accumulate_dx); dweight += dy^T x.
struct LinearBackward {
    static constexpr const char* name = "linear_backward";
    Tensor dx;           // (N, I) or empty
    Tensor dweight;      // (O, I) +=
    ConstTensor dy;      // (N, O)
    ConstTensor x;       // (N, I)
    ConstTensor weight;  // (O, I)
    bool accumulate_dx = false;

    static auto operands(auto& op) { return std::tie(op.dx, op.dweight, op.dy, op.x, op.weight); }
    double flops() const {
        return (dx ? 4.0 : 2.0) * x.shape[0] * weight.shape[0] * weight.shape[1];
    }
    void check() const {
        const int64_t N = x.shape[0], O = weight.shape[0], I = weight.shape[1];
        require(name, "x", x, DType::f32, Shape(N, I));
        require(name, "weight", weight, DType::f32, Shape(O, I));
        require(name, "dy", dy, DType::f32, Shape(N, O));
        require(name, "dweight", dweight, DType::f32, Shape(O, I));
        require_or_empty(name, "dx", dx, DType::f32, Shape(N, I));
    }
};

}  // namespace fomoe
