// Row-major f32 matmul on the calling thread, or one thread's share of one.
#pragma once

#include <cstdint>

namespace fomoe {

// Element (i, j) is data[i * stride + j], or data[j * stride + i] when transposed.
struct MatmulOperand {
    const float* data;
    int64_t stride;
    bool transposed = false;
};

// c (m x n) = a (m x k) b (k x n), or += with accumulate. Sums over k are in a fixed order.
struct Matmul {
    float* c;
    int64_t stride;  // of c
    MatmulOperand a;
    MatmulOperand b;
    int64_t m, n, k;
    bool accumulate = false;

    // The part of c that thread `part` of `parts` computes; the parts cover c once.
    Matmul share(int part, int parts) const;
    // Rows [begin, end) of c.
    Matmul rows(int64_t begin, int64_t end) const;
    Matmul columns(int64_t begin, int64_t end) const;
};

// Uses no other thread, whatever OpenMP is set to.
void multiply(const Matmul& matmul);

}  // namespace fomoe
