// Matmul with operands or results in bf16 where no instruction multiplies them: block by block, in
// f32 on copies.
#include <algorithm>
#include <vector>

#include "ops/cpu/elements.h"
#include "ops/cpu/matmul.h"

namespace fomoe {
namespace {

constexpr int64_t kRows = 256, kColumns = 240, kDepth = 512;

// Elements [row, row + rows) x [column, column + columns) of the operand, as they lie in it.
MatmulOperand widened_block(float* to, MatmulOperand from, int64_t row, int64_t rows,
                            int64_t column, int64_t columns) {
    if (from.transposed) std::swap(row, column), std::swap(rows, columns);
    from.skip(row * from.stride + column);
    with_element(from.dtype, [&]<class T>(const T*) {
        const T* data = static_cast<const T*>(from.data);
        for (int64_t i = 0; i < rows; ++i) {
#pragma omp simd
            for (int64_t j = 0; j < columns; ++j)
                to[i * columns + j] = to_f32(data[i * from.stride + j]);
        }
    });
    return {to, columns, from.transposed};
}

// c (m x n) = or += sum.
void store_block(MatmulResult c, int64_t stride, const float* sum, int64_t m, int64_t n,
                 bool accumulate) {
    with_element(c.dtype, [&]<class T>(const T*) {
        T* data = static_cast<T*>(c.data);
        for (int64_t i = 0; i < m; ++i) {
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) {
                T& to = data[i * stride + j];
                to = rounded<T>((accumulate ? to_f32(to) : 0.0f) + sum[i * n + j]);
            }
        }
    });
}

}  // namespace

void multiply_widened(const Matmul& x) {
    thread_local std::vector<float> memory((kRows + kColumns) * kDepth + kRows * kColumns);
    float *a = memory.data(), *b = a + kRows * kDepth, *sum = b + kColumns * kDepth;
    for (int64_t m = 0; m < x.m; m += kRows)
        for (int64_t n = 0; n < x.n; n += kColumns) {
            const int64_t rows = std::min(kRows, x.m - m), columns = std::min(kColumns, x.n - n);
            for (int64_t p = 0; p < x.k; p += kDepth) {
                const int64_t depth = std::min(kDepth, x.k - p);
                multiply({.c = sum,
                          .stride = columns,
                          .a = widened_block(a, x.a, m, rows, p, depth),
                          .b = widened_block(b, x.b, p, depth, n, columns),
                          .m = rows,
                          .n = columns,
                          .k = depth,
                          .accumulate = p > 0});
            }
            const Matmul block = x.rows(m, m + rows).columns(n, n + columns);
            store_block(block.c, x.stride, sum, rows, columns, x.accumulate);
        }
}

}  // namespace fomoe
