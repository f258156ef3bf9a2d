// What runs over flat ranges of the arena once a step.
#pragma once

#include <cmath>
#include <limits>

#include "ops/op.h"

namespace fomoe {

// AdamW (arXiv 1711.05101) in one pass, with the gradient g = grad * grad_scale:
//   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   weight -= lr (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + weight_decay * weight)
// Nothing changes unless grad_scale >= 0.
struct AdamW {
    static constexpr const char* name = "adamw";
    Tensor weight;           // (P) +=
    Tensor m;                // (P) +=
    Tensor v;                // (P) +=
    Tensor copy;             // (P) bf16 or empty: the new weight, rounded
    ConstTensor grad;        // (P)
    ConstTensor grad_scale;  // (1)
    float lr = 0;
    float beta1 = 0.9f;
    float beta2 = 0.95f;
    float eps = 1e-8f;
    float weight_decay = 0;
    int64_t step = 1;  // of these moments, from 1

    static auto operands(auto& op) {
        return std::tie(op.weight, op.m, op.v, op.copy, op.grad, op.grad_scale);
    }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        const Shape P(weight.shape[0]);
        require(name, "weight", weight, DType::f32, P);
        require(name, "m", m, DType::f32, P);
        require(name, "v", v, DType::f32, P);
        require_or_empty(name, "copy", copy, DType::bf16, P);
        require(name, "grad", grad, DType::f32, P);
        require(name, "grad_scale", grad_scale, DType::f32, Shape(1));
        FOMOE_CHECK(step >= 1, name, ": step ", step);
    }
};

// y = x in the other dtype: f32 to bf16, rounded to the nearest, or bf16 to f32.
struct Cast {
    static constexpr const char* name = "cast";
    Tensor y;       // (P) bf16 or f32
    ConstTensor x;  // (P) f32 or bf16

    static auto operands(auto& op) { return std::tie(op.y, op.x); }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        const bool narrows = compute_dtype(name, "x", x) == DType::f32;
        require(name, "x", x, x.dtype, Shape(x.shape[0]));
        require(name, "y", y, narrows ? DType::bf16 : DType::f32, Shape(x.shape[0]));
    }
};

// sum += x, added in f64 in an order that depends on P and the threads only. For few elements.
struct Sum {
    static constexpr const char* name = "sum";
    Tensor sum;     // (1) f64 +=
    ConstTensor x;  // (P)

    static auto operands(auto& op) { return std::tie(op.sum, op.x); }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        require(name, "sum", sum, DType::f64, Shape(1));
        require(name, "x", x, DType::f32, Shape(x.shape[0]));
    }
};

// sum += the squares of x, added in f64 in an order that depends on P and the threads only.
struct SumSquares {
    static constexpr const char* name = "sum_squares";
    Tensor sum;     // (1) f64 +=
    ConstTensor x;  // (P)

    static auto operands(auto& op) { return std::tie(op.sum, op.x); }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        require(name, "sum", sum, DType::f64, Shape(1));
        require(name, "x", x, DType::f32, Shape(x.shape[0]));
    }
};

// The factor that brings a gradient to a norm of at most `clip` (0: any norm):
//   norm = sqrt(squares);  grad_scale = clip / norm where that is below 1, else 1,
// and -1, with which AdamW changes nothing, where squares or loss are not finite or above a limit.
struct ClipScale {
    static constexpr const char* name = "clip_scale";
    Tensor grad_scale;    // (1)
    ConstTensor squares;  // (1) f64, the sum of the gradient's squares
    ConstTensor loss;     // (1) f64
    double clip = 0;
    double most_squares = std::numeric_limits<double>::max();
    double most_loss = std::numeric_limits<double>::max();

    static auto operands(auto& op) { return std::tie(op.grad_scale, op.squares, op.loss); }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        require(name, "grad_scale", grad_scale, DType::f32, Shape(1));
        require(name, "squares", squares, DType::f64, Shape(1));
        require(name, "loss", loss, DType::f64, Shape(1));
        FOMOE_CHECK(clip >= 0, name, ": clip ", clip);
        FOMOE_CHECK(most_squares >= 0 && !std::isnan(most_loss), name, ": limits ", most_squares,
                    " and ", most_loss);
    }
};

}  // namespace fomoe
