// Linear and its gradients: matmuls, and casts where an operand is wider than the one beside it.
#include <algorithm>

#include "cuda/cast.h"
#include "cuda/elementwise.cuh"
#include "cuda/matmul.h"

namespace fomoe {
namespace {

// Rows that are widened to f32 at a time: enough for a matmul, few enough to stay in the L2 cache.
constexpr int64_t kWideRows = 4096;

struct RoundBody {
    nv_bf16* y;            // (P)
    const float* product;  // (P)
    bool accumulate;

    template <int width>
    __device__ void at(int64_t i) const {
        const auto sum = load<width>(product + i);
        Vec<nv_bf16, width> out{};
        if (accumulate) out = load<width>(y + i);
        for (int j = 0; j < width; ++j)
            out.at[j] =
                from_float<nv_bf16>(accumulate ? to_float(out.at[j]) + sum.at[j] : sum.at[j]);
        store<width>(y + i, out);
    }
};

// y = product, or y += product, rounded once.
void launch_round(const Stream& s, const Tensor& y, const float* product, bool accumulate) {
    nv_bf16* to = data_of<nv_bf16>(y);
    launch_elementwise(s, "round", y.count(), vectors_fit(to, product),
                       RoundBody{to, product, accumulate});
}

// Rows from `begin` on of a (N, columns) tensor.
template <class AnyTensor>
AnyTensor rows_of(const AnyTensor& x, int64_t begin, int64_t rows) {
    return x.slice(begin * x.shape[1], rows * x.shape[1]).reshaped(Shape(rows, x.shape[1]));
}

Matrix matrix(const ConstTensor& x, bool transposed = false) {
    return {x.data, x.dtype, x.shape[1], transposed};
}

// Calls body(begin, rows, wide) for chunks of x (N, I) bf16, with room for a chunk in f32.
template <class Body>
void for_each_wide_chunk(const Stream& s, const ConstTensor& x, Body body) {
    const int64_t N = x.shape[0], I = x.shape[1];
    float* wide = s.scratch.take<float>(std::min(N, kWideRows) * I);
    for (int64_t begin = 0; begin < N; begin += kWideRows) {
        const int64_t rows = std::min(kWideRows, N - begin);
        body(begin, rows, Tensor{wide, DType::f32, Shape(rows, I)});
    }
}

void multiply_linear(const Stream& s, const Tensor& y, const ConstTensor& x,
                     const ConstTensor& weight, bool accumulate) {
    multiply(s, {.c = y.data,
                 .dtype = y.dtype,
                 .stride = y.shape[1],
                 .a = matrix(x),
                 .b = matrix(weight, true),
                 .m = x.shape[0],
                 .n = weight.shape[0],
                 .k = weight.shape[1],
                 .accumulate = accumulate});
}

void multiply_dx(const Stream& s, const Tensor& dx, const ConstTensor& dy,
                 const ConstTensor& weight, bool accumulate) {
    multiply(s, {.c = dx.data,
                 .dtype = dx.dtype,
                 .stride = dx.shape[1],
                 .a = matrix(dy),
                 .b = matrix(weight),
                 .m = dy.shape[0],
                 .n = weight.shape[1],
                 .k = weight.shape[0],
                 .accumulate = accumulate});
}

void multiply_dweight(const Stream& s, const Tensor& dweight, const ConstTensor& dy,
                      const ConstTensor& x) {
    multiply(s, {.c = dweight.data,
                 .dtype = dweight.dtype,
                 .stride = dweight.shape[1],
                 .a = matrix(dy, true),
                 .b = matrix(x),
                 .m = dweight.shape[0],
                 .n = dweight.shape[1],
                 .k = x.shape[0],
                 .accumulate = true});
}

}  // namespace

void CudaBackend::execute(const Linear& op, Queue queue) {
    const Stream s = begin(queue);
    if (op.x.dtype == op.weight.dtype)
        return multiply_linear(s, op.y, op.x, op.weight, op.accumulate);
    for_each_wide_chunk(s, op.x, [&](int64_t begin, int64_t rows, const Tensor& wide) {
        launch_cast(s, wide, rows_of(op.x, begin, rows));
        multiply_linear(s, rows_of(op.y, begin, rows), wide, op.weight, op.accumulate);
    });
}

void CudaBackend::execute(const LinearBackward& op, Queue queue) {
    const Stream s = begin(queue);
    if (op.x.dtype == op.weight.dtype) {
        ConstTensor dy = op.dy;
        if (dy.dtype != op.x.dtype) {
            const Tensor narrow{s.scratch.take<nv_bf16>(dy.count()), DType::bf16, dy.shape};
            launch_cast(s, narrow, dy);
            dy = narrow;
        }
        if (op.dx) multiply_dx(s, op.dx, dy, op.weight, op.accumulate_dx);
        return multiply_dweight(s, op.dweight, dy, op.x);
    }
    for_each_wide_chunk(s, op.x, [&](int64_t begin, int64_t rows, const Tensor& wide) {
        const ConstTensor dy = rows_of(op.dy, begin, rows);
        launch_cast(s, wide, rows_of(op.x, begin, rows));
        multiply_dweight(s, op.dweight, dy, wide);
        if (!op.dx) return;
        multiply_dx(s, wide, dy, op.weight, false);
        launch_round(s, rows_of(op.dx, begin, rows), static_cast<const float*>(wide.data),
                     op.accumulate_dx);
    });
}

}  // namespace fomoe
