// Sums and maxima in rank order: what makes all communicators give the same bits.
#pragma once

#include <algorithm>
#include <span>

#include "tensor/tensor.h"

namespace fomoe {

enum class Reduction { sum, max };

// out[i] = parts[0][i] + parts[1][i] + ..., or their maximum (NaN wins). out may be one of the
// parts.
template <class T>
void reduce_in_order(T* out, std::span<const T* const> parts, int64_t n, Reduction reduction) {
    constexpr int64_t kBlock = 2048;
    T block[kBlock];
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        const int64_t m = std::min(kBlock, n - begin);
        std::copy_n(parts[0] + begin, m, block);
        for (const T* part : parts.subspan(1)) {
            const T* in = part + begin;
            if (reduction == Reduction::sum) {
                for (int64_t i = 0; i < m; ++i) block[i] += in[i];
            } else {
                for (int64_t i = 0; i < m; ++i)
                    if (in[i] > block[i] || in[i] != in[i]) block[i] = in[i];
            }
        }
        std::copy_n(block, m, out + begin);
    }
}

// The same for `n` elements of any dtype; the parts lie one after the other when `parts` is one
// gathered buffer.
void reduce_gathered(Tensor out, ConstTensor gathered, Reduction reduction);

// Shapes and dtypes every implementation insists on.
void check_all_gather(const Tensor& out, const ConstTensor& in, int size);
void check_reduce_scatter(const Tensor& out, const ConstTensor& in, int size);
void check_all_to_all_v(const Tensor& out, std::span<const int64_t> rows_from,
                        const ConstTensor& in, std::span<const int64_t> rows_to, int size);
// Bytes of one row of x, whose first dimension counts rows.
int64_t row_bytes(const ConstTensor& x);

}  // namespace fomoe
