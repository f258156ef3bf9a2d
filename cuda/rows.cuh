// What the ops on rows share: 16 bytes at once where rows allow it, and sums over rows in two
// stages.
#pragma once

#include <initializer_list>

#include "cuda/device.cuh"

namespace fomoe {

// n neighbours, 16 bytes at most at once.
template <int n, class T>
__device__ __forceinline__ void load(float (&x)[n], const T* from) {
    constexpr int piece = n * sizeof(T) > 16 ? 16 / sizeof(T) : n;
#pragma unroll
    for (int i = 0; i < n; i += piece) {
        const Vec<T, piece> v = *reinterpret_cast<const Vec<T, piece>*>(from + i);
#pragma unroll
        for (int j = 0; j < piece; ++j) x[i + j] = to_float(v.at[j]);
    }
}
template <int n, class T>
__device__ __forceinline__ void store(T* to, const float (&x)[n]) {
    constexpr int piece = n * sizeof(T) > 16 ? 16 / sizeof(T) : n;
#pragma unroll
    for (int i = 0; i < n; i += piece) {
        Vec<T, piece> v;
#pragma unroll
        for (int j = 0; j < piece; ++j) v.at[j] = from_float<T>(x[i + j]);
        *reinterpret_cast<Vec<T, piece>*>(to + i) = v;
    }
}

// Elements of 16 bytes.
template <class T>
constexpr int kWide = 16 / sizeof(T);

// Whether stretches of `columns` elements, one behind the other from these addresses on, are whole
// numbers of 16 bytes. An empty operand does not matter.
template <class T>
bool fits_wide(int64_t columns, std::initializer_list<const void*> data) {
    bool fits = columns % kWide<T> == 0;
    for (const void* each : data) fits = fits && reinterpret_cast<uintptr_t>(each) % 16 == 0;
    return fits;
}

// Calls body.template operator()<width>() with the elements of 16 bytes, or 1.
template <class T, class Body>
void with_width(bool wide, Body body) {
    if (wide)
        body.template operator()<kWide<T>>();
    else
        body.template operator()<1>();
}

// sum[c] += partial[r, c] over the rows r, in an order that only `rows` decides.
struct ColumnSums {
    float* sum;            // (columns)
    const float* partial;  // (rows, stride)
    int rows;
    int64_t columns;
    int64_t stride;
};
void add_columns(const ColumnSums& sums, const Stream& s);

}  // namespace fomoe
