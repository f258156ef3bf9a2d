// The routed experts of a layer: gather, both matmuls, activation and weighted return in one op.
#pragma once

#include "ops/op.h"

namespace fomoe {

enum class Activation { swiglu, silu, relu, gelu };  // gelu is the exact one, with erf

constexpr int64_t matrices_in(Activation activation) {
    return activation == Activation::swiglu ? 2 : 1;
}

inline void require_frozen(const char* op, const ConstTensor& frozen, int n_frozen, int64_t R) {
    require_or_empty(op, "frozen", frozen, DType::bf16, Shape(frozen.shape[0]));
    FOMOE_CHECK(0 <= n_frozen && n_frozen <= R && (n_frozen == 0 || frozen), op, ": ", n_frozen,
                " of ", R, " experts are frozen", frozen ? "" : ", without their weights");
}

// y[n] = sum over k with slot[n, k] >= 0, in rising k, of gate[n, k] * expert_slot(x[n]); 0 without
// any. expert(x) = a(x W_in^T) W_out^T with a = silu(g) * u on [g | u] for swiglu.
// Expert s lies in `weights` from expert_offset[s] on: W_in (U F, D), then W_out (D, F); for swiglu
// W_in is the gate's F rows, then the up projection's F rows. The last n_frozen of the R experts
// are frozen: they lie in `frozen` instead, laid out alike.
// Rows are ordered by slot, then (n, k): row r of `hidden` belongs to choice[r] = n K + k, and slot
// s has the rows [offset[s], offset[s + 1]). Any split of the choices may occur: all on one expert,
// none at all.
struct ExpertsForward {
    static constexpr const char* name = "experts_forward";
    Tensor y;                   // (N, D)
    Tensor hidden;              // (M, U F), M >= the choices with slot >= 0: x W_in^T by row
    Tensor choice;              // (M) i32; rows behind the last are not written
    Tensor offset;              // (R + 1) i32
    ConstTensor x;              // (N, D)
    ConstTensor slot;           // (N, K) i32
    ConstTensor gate;           // (N, K)
    ConstTensor weights;        // (P)
    ConstTensor expert_offset;  // (R) i64, in elements
    ConstTensor frozen;         // (P') bf16, or empty
    int n_frozen = 0;
    Activation activation = Activation::swiglu;
    int d_expert = 0;  // F

    static auto operands(auto& op) {
        return std::tie(op.y, op.hidden, op.choice, op.offset, op.x, op.slot, op.gate, op.weights,
                        op.expert_offset, op.frozen);
    }
    static auto computed(auto& op) { return std::tie(op.y, op.hidden, op.x, op.weights); }
    int64_t matrices() const { return matrices_in(activation); }
    // Of the rows executed: known once `offset` is written.
    double flops() const {
        return 2.0 * offset.as<int32_t>()[expert_offset.shape[0]] * (matrices() + 1) * d_expert *
               x.shape[1];
    }
    void check() const {
        const DType C = compute_dtype(name, "x", x);
        const int64_t N = x.shape[0], D = x.shape[1], K = slot.shape[1];
        const int64_t R = expert_offset.shape[0], M = choice.shape[0];
        require(name, "x", x, C, Shape(N, D));
        require(name, "y", y, C, Shape(N, D));
        require(name, "slot", slot, DType::i32, Shape(N, K));
        require(name, "gate", gate, DType::f32, Shape(N, K));
        require(name, "choice", choice, DType::i32, Shape(M));
        require(name, "hidden", hidden, C, Shape(M, matrices() * d_expert));
        require(name, "offset", offset, DType::i32, Shape(R + 1));
        require(name, "expert_offset", expert_offset, DType::i64, Shape(R));
        require(name, "weights", weights, C, Shape(weights.shape[0]));
        require_frozen(name, frozen, n_frozen, R);
    }
};

// dgate of a choice with slot -1 is 0. dweights is laid out as weights: the gradients are added to
// what it has, or else written, as 0 for an expert without rows; what lies between experts stays.
// Without it the weights have no gradient. Frozen experts never have one.
struct ExpertsBackward {
    static constexpr const char* name = "experts_backward";
    Tensor dx;        // (N, D)
    Tensor dgate;     // (N, K)
    Tensor dweights;  // (P) +=, or = without accumulate_dweights; or empty
    ConstTensor dy;   // (N, D)
    ConstTensor x;    // as in ExpertsForward, and so are those below
    ConstTensor slot;
    ConstTensor gate;
    ConstTensor hidden;
    ConstTensor choice;
    ConstTensor offset;
    ConstTensor weights;
    ConstTensor expert_offset;
    ConstTensor frozen;
    int n_frozen = 0;
    Activation activation = Activation::swiglu;
    int d_expert = 0;
    bool accumulate_dweights = true;

    static auto operands(auto& op) {
        return std::tie(op.dx, op.dgate, op.dweights, op.dy, op.x, op.slot, op.gate, op.hidden,
                        op.choice, op.offset, op.weights, op.expert_offset, op.frozen);
    }
    static auto computed(auto& op) { return std::tie(op.dx, op.dy, op.x, op.hidden, op.weights); }
    int64_t matrices() const { return matrices_in(activation); }
    double flops() const {
        const int64_t R = expert_offset.shape[0];
        const int32_t* end = offset.as<int32_t>();
        // Rows whose gradient is made.
        const double inputs = end[R], weights = dweights ? end[R - n_frozen] : 0;
        return 2.0 * (inputs + weights) * (matrices() + 1) * d_expert * x.shape[1];
    }
    void check() const {
        const DType C = compute_dtype(name, "x", x);
        const int64_t N = x.shape[0], D = x.shape[1], K = slot.shape[1];
        const int64_t R = expert_offset.shape[0], M = choice.shape[0];
        require(name, "x", x, C, Shape(N, D));
        require(name, "dx", dx, C, Shape(N, D));
        require(name, "dy", dy, C, Shape(N, D));
        require(name, "slot", slot, DType::i32, Shape(N, K));
        require(name, "gate", gate, DType::f32, Shape(N, K));
        require(name, "dgate", dgate, DType::f32, Shape(N, K));
        require(name, "choice", choice, DType::i32, Shape(M));
        require(name, "hidden", hidden, C, Shape(M, matrices() * d_expert));
        require(name, "offset", offset, DType::i32, Shape(R + 1));
        require(name, "expert_offset", expert_offset, DType::i64, Shape(R));
        require(name, "weights", weights, C, Shape(weights.shape[0]));
        require_or_empty(name, "dweights", dweights, DType::f32, weights.shape);
        require_frozen(name, frozen, n_frozen, R);
    }
};

}  // namespace fomoe
