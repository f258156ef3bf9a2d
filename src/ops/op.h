// How an op is written, and the letters of its shapes.
//
// An op is a struct: fields are the operands, the comment is the contract in words, check() is the
// contract in code. ConstTensor is an input, Tensor an output. An output whose comment says += adds
// to what is there. A comment with "or empty" marks an operand that may be left out.
//
//   N tokens (B T)    B sequences        T sequence length   D d_model   V vocabulary
//   A query heads     KV key/value heads Dh head size        E experts   R resident experts
//   K choices a token F d_expert         U matrices into an expert's hidden layer: 2 for swiglu,
//   else 1 M routed rows     Q destination ranks                    I, O inputs and outputs of a
//   matmul
//
// Activations, their gradients and the weights of matmuls have the compute dtype, f32 or bf16, all
// of an op alike; Op::computed lists them. Everything else is f32 unless its comment says
// otherwise. Arithmetic is that of f32 on either; a bf16 output is rounded at last, and values
// inside an op may be rounded to bf16 where a matmul reads them.
//
// flops() counts multiplications and additions of the matmuls inside; bytes of operands are counted
// by whoever traces.
#pragma once

#include <tuple>

#include "tensor/tensor.h"

namespace fomoe {

// Throws unless the tensor has this dtype and shape.
template <class AnyTensor>
void require(const char* op, const char* field, const AnyTensor& x, DType dtype, Shape shape) {
    FOMOE_CHECK(x.data && x.dtype == dtype && x.shape == shape, op, ": ", field, " must be ",
                name_of(dtype), ' ', shape, ", is ", x.data ? name_of(x.dtype) : "empty", ' ',
                x.shape);
}
// The compute dtype, which this operand has.
template <class AnyTensor>
DType compute_dtype(const char* op, const char* field, const AnyTensor& x) {
    FOMOE_CHECK(x.data && (x.dtype == DType::f32 || x.dtype == DType::bf16), op, ": ", field,
                " must be f32 or bf16, is ", x.data ? name_of(x.dtype) : "empty");
    return x.dtype;
}
template <class AnyTensor>
void require_or_empty(const char* op, const char* field, const AnyTensor& x, DType dtype,
                      Shape shape) {
    if (x.data) require(op, field, x, dtype, shape);
}

}  // namespace fomoe
