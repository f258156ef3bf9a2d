// Views on memory that somebody else owns. Copying a Tensor copies the view, never the data.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <ostream>

#include "base/error.h"
#include "tensor/bf16.h"

namespace fomoe {

// f16 is for files alone: nothing computes in it.
enum class DType : uint8_t { f32, f64, i32, i64, bf16, f16 };

constexpr int64_t size_of(DType dtype) {
    constexpr int64_t sizes[] = {4, 8, 4, 8, 2, 2};
    return sizes[static_cast<int>(dtype)];
}
constexpr const char* name_of(DType dtype) {
    constexpr const char* names[] = {"f32", "f64", "i32", "i64", "bf16", "f16"};
    return names[static_cast<int>(dtype)];
}

template <class T>
inline constexpr DType kDTypeOf = DType::f32;
template <>
inline constexpr DType kDTypeOf<double> = DType::f64;
template <>
inline constexpr DType kDTypeOf<int32_t> = DType::i32;
template <>
inline constexpr DType kDTypeOf<int64_t> = DType::i64;
template <>
inline constexpr DType kDTypeOf<bf16> = DType::bf16;

// Up to four dimensions, row-major, no strides.
struct Shape {
    std::array<int64_t, 4> dims{1, 1, 1, 1};
    int rank = 0;

    Shape() = default;
    template <class... N>
    requires(sizeof...(N) >= 1 && sizeof...(N) <= 4 && (std::convertible_to<N, int64_t> && ...))
        Shape(N... n)
        : rank(sizeof...(N)) {
        int i = 0;
        ((dims[i++] = static_cast<int64_t>(n)), ...);
    }
    int64_t operator[](int i) const { return dims[i]; }
    int64_t count() const { return rank == 0 ? 0 : dims[0] * dims[1] * dims[2] * dims[3]; }
    bool operator==(const Shape&) const = default;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    out << '(';
    for (int i = 0; i < shape.rank; ++i) out << (i ? ", " : "") << shape[i];
    return out << ')';
}

// A Tensor without data is "empty": an optional operand that was left out.
struct Tensor {
    void* data = nullptr;
    DType dtype = DType::f32;
    Shape shape;

    explicit operator bool() const { return data != nullptr; }
    int64_t count() const { return shape.count(); }
    int64_t bytes() const { return count() * size_of(dtype); }
    template <class T>
    T* as() const {
        FOMOE_CHECK(dtype == kDTypeOf<T>, "the tensor holds ", name_of(dtype));
        return static_cast<T*>(data);
    }
    // The same memory under another shape of the same or a smaller size.
    Tensor reshaped(Shape to) const {
        FOMOE_CHECK(to.count() <= count(), "view ", to, " of ", shape);
        return {data, dtype, to};
    }
    // `count` elements from element `begin` on, as one dimension.
    Tensor slice(int64_t begin, int64_t n) const {
        FOMOE_CHECK(0 <= begin && 0 <= n && begin + n <= count(), "slice ", begin, "+", n, " of ",
                    shape);
        return {static_cast<char*>(data) + begin * size_of(dtype), dtype, Shape(n)};
    }
};

// The same view, read-only. An op names its inputs ConstTensor and its outputs Tensor.
struct ConstTensor {
    const void* data = nullptr;
    DType dtype = DType::f32;
    Shape shape;

    ConstTensor() = default;
    ConstTensor(const void* data, DType dtype, Shape shape)
        : data(data), dtype(dtype), shape(shape) {}
    ConstTensor(const Tensor& t) : data(t.data), dtype(t.dtype), shape(t.shape) {}

    explicit operator bool() const { return data != nullptr; }
    int64_t count() const { return shape.count(); }
    int64_t bytes() const { return count() * size_of(dtype); }
    template <class T>
    const T* as() const {
        FOMOE_CHECK(dtype == kDTypeOf<T>, "the tensor holds ", name_of(dtype));
        return static_cast<const T*>(data);
    }
    ConstTensor reshaped(Shape to) const {
        FOMOE_CHECK(to.count() <= count(), "view ", to, " of ", shape);
        return {data, dtype, to};
    }
    ConstTensor slice(int64_t begin, int64_t n) const {
        FOMOE_CHECK(0 <= begin && 0 <= n && begin + n <= count(), "slice ", begin, "+", n, " of ",
                    shape);
        return {static_cast<const char*>(data) + begin * size_of(dtype), dtype, Shape(n)};
    }
};

// A view of a vector in host memory: view(std::vector<float>&) is f32 (n).
template <class T>
Tensor view(T* data, Shape shape) {
    return {data, kDTypeOf<T>, shape};
}
template <class T>
ConstTensor view(const T* data, Shape shape) {
    return {data, kDTypeOf<T>, shape};
}

}  // namespace fomoe
