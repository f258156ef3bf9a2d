// The output matmul and the loss in one op; the (N, V) logits never exist as a whole.
#pragma once

#include "ops/op.h"

namespace fomoe {

// With logits z = x weight^T: loss[n] = logsumexp(z[n]) - z[n, target[n]], 0 where target < 0; and
// the gradients of scale * sum of the losses. Without dx and dweight only the loss is computed.
struct LinearCrossEntropy {
    static constexpr const char* name = "linear_cross_entropy";
    Tensor loss;         // (N)
    Tensor dx;           // (N, D) or empty
    Tensor dweight;      // (V, D) +=, or empty when dx is
    ConstTensor x;       // (N, D)
    ConstTensor weight;  // (V, D)
    ConstTensor target;  // (N) i32, in [0, V) or negative
    float scale = 1.0f;

    static auto operands(auto& op) {
        return std::tie(op.loss, op.dx, op.dweight, op.x, op.weight, op.target);
    }
    static auto computed(auto& op) { return std::tie(op.dx, op.x, op.weight); }
    double flops() const {
        return (dx ? 6.0 : 2.0) * x.shape[0] * weight.shape[0] * weight.shape[1];
    }
    void check() const {
        const DType C = compute_dtype(name, "x", x);
        const int64_t N = x.shape[0], D = x.shape[1], V = weight.shape[0];
        require(name, "x", x, C, Shape(N, D));
        require(name, "weight", weight, C, Shape(V, D));
        require(name, "target", target, DType::i32, Shape(N));
        require(name, "loss", loss, DType::f32, Shape(N));
        FOMOE_CHECK(bool(dx) == bool(dweight), name, ": dx and dweight come together");
        require_or_empty(name, "dx", dx, C, Shape(N, D));
        require_or_empty(name, "dweight", dweight, DType::f32, Shape(V, D));
    }
};

}  // namespace fomoe
