// Indexed access to an operand for the reference: grid(row, column) of an operand seen as a matrix.
#pragma once

#include "tensor/tensor.h"

namespace fomoe {

template <class T>
struct Grid {
    T* data = nullptr;
    int64_t rows = 0, columns = 1;

    explicit operator bool() const { return data != nullptr; }
    T& operator()(int64_t row, int64_t column) const { return data[row * columns + column]; }
    T& operator()(int64_t i) const { return data[i]; }
};

template <class T>
Grid<T> grid(const Tensor& x) {
    if (!x) return {};
    return {x.as<T>(), x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]};
}
template <class T>
Grid<const T> grid(const ConstTensor& x) {
    if (!x) return {};
    return {x.as<T>(), x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]};
}
inline auto f64(const auto& x) { return grid<double>(x); }
inline auto i32(const auto& x) { return grid<int32_t>(x); }
inline auto i64(const auto& x) { return grid<int64_t>(x); }

}  // namespace fomoe
