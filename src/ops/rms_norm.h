// RMSNorm (arXiv 1910.07467) with the residual sum before it.
#pragma once

#include "ops/op.h"

namespace fomoe {

// sum = x + residual; y = weight * sum / rms(sum), row by row. Without a residual, sum is x and is
// not written.
struct RmsNorm {
    static constexpr const char* name = "rms_norm";
    Tensor y;              // (N, D)
    Tensor sum;            // (N, D), or empty without a residual; may be x or residual itself
    Tensor rstd;           // (N), 1 / rms, kept for the backward pass
    ConstTensor x;         // (N, D)
    ConstTensor residual;  // (N, D) or empty
    ConstTensor weight;    // (D)
    float eps = 1e-5f;     // rms = sqrt(mean of squares + eps)

    static auto operands(auto& op) {
        return std::tie(op.y, op.sum, op.rstd, op.x, op.residual, op.weight);
    }
    static auto computed(auto& op) { return std::tie(op.y, op.sum, op.x, op.residual); }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "x", x);
        const int64_t N = x.shape[0], D = x.shape[1];
        require(name, "x", x, C, Shape(N, D));
        require(name, "y", y, C, Shape(N, D));
        require(name, "rstd", rstd, DType::f32, Shape(N));
        require(name, "weight", weight, DType::f32, Shape(D));
        require_or_empty(name, "residual", residual, C, Shape(N, D));
        FOMOE_CHECK(bool(residual) == bool(sum), name, ": sum and residual come together");
        require_or_empty(name, "sum", sum, C, Shape(N, D));
    }
};

// dx = dsum + gradient of the norm; it is the gradient of x and of the residual alike.
struct RmsNormBackward {
    static constexpr const char* name = "rms_norm_backward";
    Tensor dx;           // (N, D); may be dsum itself
    Tensor dweight;      // (D) +=
    ConstTensor dy;      // (N, D)
    ConstTensor dsum;    // (N, D) or empty: gradient that reaches sum on other ways
    ConstTensor sum;     // (N, D), what was normalised
    ConstTensor rstd;    // (N)
    ConstTensor weight;  // (D)

    static auto operands(auto& op) {
        return std::tie(op.dx, op.dweight, op.dy, op.dsum, op.sum, op.rstd, op.weight);
    }
    static auto computed(auto& op) { return std::tie(op.dx, op.dy, op.dsum, op.sum); }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "sum", sum);
        const int64_t N = sum.shape[0], D = sum.shape[1];
        require(name, "sum", sum, C, Shape(N, D));
        require(name, "dx", dx, C, Shape(N, D));
        require(name, "dweight", dweight, DType::f32, Shape(D));
        require(name, "dy", dy, C, Shape(N, D));
        require_or_empty(name, "dsum", dsum, C, Shape(N, D));
        require(name, "rstd", rstd, DType::f32, Shape(N));
        require(name, "weight", weight, DType::f32, Shape(D));
    }
};

}  // namespace fomoe
