// Dense matmul with a weight in the (outputs, inputs) layout of Hugging Face files.
#pragma once

#include "ops/op.h"

namespace fomoe {

// f32, or what `like` has: an operand of a matmul that may be wider than the one before it.
template <class AnyTensor>
DType matmul_dtype(const char* op, const char* field, const AnyTensor& x, const ConstTensor& like) {
    return x.dtype == DType::f32 ? DType::f32 : (compute_dtype(op, field, x), like.dtype);
}

// y = x weight^T, or y += with accumulate. The weight may be f32 where x is bf16, and y then is
// f32; with a bf16 weight y may be f32 as well.
struct Linear {
    static constexpr const char* name = "linear";
    Tensor y;            // (N, O)
    ConstTensor x;       // (N, I)
    ConstTensor weight;  // (O, I)
    bool accumulate = false;

    static auto operands(auto& op) { return std::tie(op.y, op.x, op.weight); }
    static auto computed(auto& op) { return std::tie(op.y, op.x, op.weight); }
    double flops() const { return 2.0 * x.shape[0] * weight.shape[0] * weight.shape[1]; }
    void check() const {
        const int64_t N = x.shape[0], O = weight.shape[0], I = weight.shape[1];
        require(name, "x", x, compute_dtype(name, "x", x), Shape(N, I));
        require(name, "weight", weight, matmul_dtype(name, "weight", weight, x), Shape(O, I));
        require(name, "y", y, matmul_dtype(name, "y", y, weight), Shape(N, O));
    }
};

// dx = dy weight (or += with accumulate_dx); dweight += dy^T x. x and dx have one dtype; weight and
// dy are as in Linear.
struct LinearBackward {
    static constexpr const char* name = "linear_backward";
    Tensor dx;           // (N, I) or empty
    Tensor dweight;      // (O, I) +=
    ConstTensor dy;      // (N, O)
    ConstTensor x;       // (N, I)
    ConstTensor weight;  // (O, I)
    bool accumulate_dx = false;

    static auto operands(auto& op) { return std::tie(op.dx, op.dweight, op.dy, op.x, op.weight); }
    static auto computed(auto& op) { return std::tie(op.dx, op.dy, op.x, op.weight); }
    double flops() const {
        return (dx ? 4.0 : 2.0) * x.shape[0] * weight.shape[0] * weight.shape[1];
    }
    void check() const {
        const int64_t N = x.shape[0], O = weight.shape[0], I = weight.shape[1];
        require(name, "x", x, compute_dtype(name, "x", x), Shape(N, I));
        require(name, "weight", weight, matmul_dtype(name, "weight", weight, x), Shape(O, I));
        require(name, "dy", dy, matmul_dtype(name, "dy", dy, weight), Shape(N, O));
        require(name, "dweight", dweight, DType::f32, Shape(O, I));
        require_or_empty(name, "dx", dx, x.dtype, Shape(N, I));
    }
};

}  // namespace fomoe
