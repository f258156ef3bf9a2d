// What the ops on rows share: 16 bytes at once where rows allow it, and sums over rows in two
// stages.
#pragma once

#include <initializer_list>

#include "cuda/device.cuh"
#include "cuda/ptx.cuh"

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
// Writes neighbours to global memory at once; the compiler may take an assignment apart.
template <class T, int n>
__device__ __forceinline__ void put(T* to, const Vec<T, n>& x) {
    const auto write = [&]<class Whole>(Whole whole) {
        memcpy(&whole, &x, sizeof whole);
        ptx::store_global(reinterpret_cast<Whole*>(to), whole);
    };
    if constexpr (sizeof x == 16)
        write(uint4{});
    else if constexpr (sizeof x == 8)
        write(uint2{});
    else
        *reinterpret_cast<Vec<T, n>*>(to) = x;
}

template <int n, class T>
__device__ __forceinline__ void store(T* to, const float (&x)[n]) {
    constexpr int piece = n * sizeof(T) > 16 ? 16 / sizeof(T) : n;
#pragma unroll
    for (int i = 0; i < n; i += piece) {
        Vec<T, piece> v;
#pragma unroll
        for (int j = 0; j < piece; ++j) v.at[j] = from_float<T>(x[i + j]);
        put(to + i, v);
    }
}

// n = 8: of floats in shared memory, where neighbouring threads have neighbouring stretches and are
// at the same call together. Every other four of them take the later half first, so that eight
// threads, whose halves go through at once, touch all banks.
template <int n>
__device__ __forceinline__ void load_shared(float (&x)[n], const float* from) {
    if constexpr (n != 8) {
        load(x, from);
    } else {
        const bool turned = threadIdx.x / 4 % 2;
        float first[4], second[4];
        load(first, from + (turned ? 4 : 0));
        load(second, from + (turned ? 0 : 4));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            x[j] = turned ? second[j] : first[j];
            x[4 + j] = turned ? first[j] : second[j];
        }
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
