// Rows of a table by token.
#pragma once

#include "ops/op.h"

namespace fomoe {

// y[n] = weight[token[n]].
struct Embedding {
    static constexpr const char* name = "embedding";
    Tensor y;            // (N, D)
    ConstTensor token;   // (N) i32, in [0, V)
    ConstTensor weight;  // (V, D)

    static auto operands(auto& op) { return std::tie(op.y, op.token, op.weight); }
    static auto computed(auto& op) { return std::tie(op.y, op.weight); }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "weight", weight);
        const int64_t N = token.shape[0], D = weight.shape[1];
        require(name, "token", token, DType::i32, Shape(N));
        require(name, "weight", weight, C, Shape(weight.shape[0], D));
        require(name, "y", y, C, Shape(N, D));
    }
};

// dweight[token[n]] += dy[n], in the order of the tokens.
struct EmbeddingBackward {
    static constexpr const char* name = "embedding_backward";
    Tensor dweight;     // (V, D) +=
    ConstTensor dy;     // (N, D)
    ConstTensor token;  // (N) i32

    static auto operands(auto& op) { return std::tie(op.dweight, op.dy, op.token); }
    static auto computed(auto& op) { return std::tie(op.dy); }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "dy", dy);
        const int64_t N = token.shape[0], D = dweight.shape[1];
        require(name, "token", token, DType::i32, Shape(N));
        require(name, "dweight", dweight, DType::f32, Shape(dweight.shape[0], D));
        require(name, "dy", dy, C, Shape(N, D));
    }
};

}  // namespace fomoe
