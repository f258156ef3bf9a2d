// Row-major matmul on the calling thread, or one thread's share of one.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace fomoe {

// Element (i, j) is data[i * stride + j], or data[j * stride + i] when transposed.
struct MatmulOperand {
    MatmulOperand(const float* data, int64_t stride, bool transposed = false)
        : data(data), stride(stride), transposed(transposed) {}
    MatmulOperand(const bf16* data, int64_t stride, bool transposed = false)
        : data(data), dtype(DType::bf16), stride(stride), transposed(transposed) {}
    // Of a tensor, from its element `begin` on.
    MatmulOperand(const ConstTensor& tensor, int64_t begin, int64_t stride, bool transposed = false)
        : data(tensor.data), dtype(tensor.dtype), stride(stride), transposed(transposed) {
        skip(begin);
    }

    const float* f32() const { return static_cast<const float*>(data); }
    void skip(int64_t elements) {
        data = static_cast<const char*>(data) + elements * size_of(dtype);
    }

    const void* data;
    DType dtype = DType::f32;
    int64_t stride;
    bool transposed = false;
};

struct MatmulResult {
    MatmulResult(float* data) : data(data) {}
    MatmulResult(bf16* data) : data(data), dtype(DType::bf16) {}
    MatmulResult(const Tensor& tensor) : data(tensor.data), dtype(tensor.dtype) {}

    float* f32() const { return static_cast<float*>(data); }
    void skip(int64_t elements) { data = static_cast<char*>(data) + elements * size_of(dtype); }

    void* data;
    DType dtype = DType::f32;
};

enum class Put { set, add, stream };  // sums to a result

// c (m x n) = a (m x k) b (k x n), or += with accumulate. Sums over k are in f32, in a fixed order;
// a c of bf16 is rounded once, behind them. A large c that is not read soon may be streamed: it is
// written past the caches, so that memory need not be read first, where that can be done.
struct Matmul {
    MatmulResult c;
    int64_t stride;  // of c
    MatmulOperand a;
    MatmulOperand b;
    int64_t m, n, k;
    bool accumulate = false;
    bool stream = false;

    // The part of c that thread `part` of `parts` computes; the parts cover c once.
    Matmul share(int part, int parts) const;
    // Rows [begin, end) of c.
    Matmul rows(int64_t begin, int64_t end) const;
    Matmul columns(int64_t begin, int64_t end) const;

    // Of a block of the sum over k, which may be the first of it, the last, or both.
    Put put(bool first, bool last) const;
};

// Uses no other thread, whatever OpenMP is set to.
void multiply(const Matmul& matmul);

// What multiply() does where c is not empty and k > 0. Both operands are bf16: by vectors, only
// where cpu_multiplies_bf16(), or by tiles, only where cpu_has_tiles(), which are faster.
void multiply_narrow(const Matmul& matmul);
void multiply_tiles(const Matmul& matmul);
// Anything is bf16:
void multiply_widened(const Matmul& matmul);

}  // namespace fomoe
