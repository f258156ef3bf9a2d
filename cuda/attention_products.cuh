// Products of tiles in shared memory by a warp, which owns 16 m rows of the result. Sums lie in
// registers as those of mma.m16n8k16, on f32 as on bf16, so that everything about rows and columns
// is written once.
#pragma once

#include "cuda/attention_tiles.cuh"

namespace fomoe {

// Of a warp's row that is the r-th of this lane.
__device__ __forceinline__ int row_of(int r) { return 8 * r + threadIdx.x % kWarp / 4; }

// Sums of a warp, (16 m x columns) in f32: at[i][n][2 h + e] is that of row 16 i + 8 h + lane / 4
// and column 8 n + 2 (lane % 4) + e.
template <int m, int columns>
struct Sums {
    float at[m][columns / 8][4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (auto& rows : at)
#pragma unroll
            for (auto& piece : rows)
#pragma unroll
                for (float& x : piece) x = 0;
    }
    // x = f(r)(column, x) for all, where r counts the rows of this lane: row_of(r) is that of the
    // warp.
    template <class F>
    __device__ __forceinline__ void map_rows(F f) {
#pragma unroll
        for (int r = 0; r < 2 * m; ++r) {
            const auto g = f(r);
#pragma unroll
            for (int n = 0; n < columns / 8; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& x = at[r / 2][n][r % 2 * 2 + e];
                    x = g(8 * n + 2 * (threadIdx.x % 4) + e, x);
                }
        }
    }
    // x = f(r, column, x) for all.
    template <class F>
    __device__ __forceinline__ void map(F f) {
        map_rows([&](int r) { return [&f, r](int column, float x) { return f(r, column, x); }; });
    }
};

// The rows of a warp as left operand, read where they are needed.
template <class T, int m, int width>
struct RowsInTile {
    static constexpr int kRowBytes = width * sizeof(T);
    // Steps of 16 columns. A longer stretch is scheduled with more registers than there are.
    static constexpr int kUnrolled = width <= 64 ? 2 : width % 64 == 0 ? 4 : 3;
    Tile<T, width> tile;
    int row;  // first

    __device__ __forceinline__ void fragments(uint32_t (&a)[m][4], int k) const {
        const int lane = threadIdx.x % kWarp;
#pragma unroll
        for (int i = 0; i < m; ++i) {
            const uint32_t at = ptx::shared_address(tile.at(row + lane % 16, lane / 16 * 8));
            ptx::ldmatrix_x4(a[i], tile.address_right_of(at, k) + 16 * i * kRowBytes);
        }
    }
};

// The same, read once.
template <int m, int width>
struct RowsInRegisters {
    static constexpr int kUnrolled = width / 16;
    uint32_t at[width / 16][m][4];

    __device__ __forceinline__ explicit RowsInRegisters(const RowsInTile<nv_bf16, m, width>& rows) {
#pragma unroll
        for (int k = 0; k < width / 16; ++k) rows.fragments(at[k], 16 * k);
    }
    __device__ __forceinline__ void fragments(uint32_t (&a)[m][4], int k) const {
#pragma unroll
        for (int i = 0; i < m; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) a[i][e] = at[k / 16][i][e];
    }
};

// sums += left right^T, with right (columns x width).
template <class Rows, int m, int columns, int width>
__device__ __forceinline__ void multiply_transposed(Sums<m, columns>& sums, const Rows& left,
                                                    Tile<nv_bf16, width> right) {
    constexpr int row_bytes = width * sizeof(nv_bf16);
    const int lane = threadIdx.x % kWarp;
    const uint32_t at = ptx::shared_address(right.at(lane / 16 * 8 + lane % 8, lane / 8 % 2 * 8));
#pragma unroll Rows::kUnrolled
    for (int k = 0; k < width; k += 16) {
        uint32_t a[m][4];
        left.fragments(a, k);
#pragma unroll
        for (int n = 0; n < columns; n += 16) {
            uint32_t b[4];
            ptx::ldmatrix_x4(b, right.address_right_of(at, k) + n * row_bytes);
#pragma unroll
            for (int i = 0; i < m; ++i) {
                ptx::mma_bf16(sums.at[i][n / 8], a[i], b[0], b[1]);
                ptx::mma_bf16(sums.at[i][n / 8 + 1], a[i], b[2], b[3]);
            }
        }
    }
}

template <int m, int columns, int width>
__device__ __forceinline__ void multiply_transposed(Sums<m, columns>& sums,
                                                    const RowsInTile<float, m, width>& left,
                                                    Tile<float, width> right) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll 2
    for (int k = 0; k < width; k += 4) {
        Vec<float, 4> a[m][2];
#pragma unroll
        for (int i = 0; i < m; ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h)
                a[i][h] = *reinterpret_cast<const Vec<float, 4>*>(
                    left.tile.at(left.row + 16 * i + 8 * h + g, k));
#pragma unroll
        for (int n = 0; n < columns / 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const auto b =
                    *reinterpret_cast<const Vec<float, 4>*>(right.at(8 * n + 2 * t + e, k));
#pragma unroll
                for (int i = 0; i < m; ++i)
#pragma unroll
                    for (int h = 0; h < 2; ++h)
#pragma unroll
                        for (int q = 0; q < 4; ++q)
                            sums.at[i][n][2 * h + e] += a[i][h].at[q] * b.at[q];
            }
    }
}

// The sums of a product, rounded to T, as left operand of the next.
template <class T, int m, int columns>
struct Factor {
    Sums<m, columns> sums;

    __device__ __forceinline__ explicit Factor(const Sums<m, columns>& sums) : sums(sums) {}
    __device__ __forceinline__ float value(int i, int n, int e) const { return sums.at[i][n][e]; }
};

template <int m, int columns>
struct Factor<nv_bf16, m, columns> {
    uint32_t at[columns / 16][m][4];

    __device__ __forceinline__ explicit Factor(const Sums<m, columns>& sums) {
#pragma unroll
        for (int k = 0; k < columns / 16; ++k)
#pragma unroll
            for (int i = 0; i < m; ++i)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const auto& piece = sums.at[i][2 * k + e / 2];
                    at[k][i][e] = ptx::pack_bf16(piece[e % 2 * 2], piece[e % 2 * 2 + 1]);
                }
    }
    __device__ __forceinline__ float value(int i, int n, int e) const {
        const uint32_t pair = at[n / 2][i][n % 2 * 2 + e / 2];
        return __uint_as_float(e % 2 ? pair & 0xffff0000u : pair << 16);
    }
};

// sums += left right, with right (inner x width).
template <int m, int inner, int width>
__device__ __forceinline__ void multiply(Sums<m, width>& sums,
                                         const Factor<nv_bf16, m, inner>& left,
                                         Tile<nv_bf16, width> right) {
    constexpr int row_bytes = width * sizeof(nv_bf16);
    const int lane = threadIdx.x % kWarp;
    const uint32_t at = ptx::shared_address(right.at(lane % 16, lane / 16 * 8));
#pragma unroll
    for (int k = 0; k < inner; k += 16) {
#pragma unroll
        for (int n = 0; n < width; n += 16) {
            uint32_t b[4];
            ptx::ldmatrix_x4_trans(b, right.address_right_of(at, n) + k * row_bytes);
#pragma unroll
            for (int i = 0; i < m; ++i) {
                ptx::mma_bf16(sums.at[i][n / 8], left.at[k / 16][i], b[0], b[1]);
                ptx::mma_bf16(sums.at[i][n / 8 + 1], left.at[k / 16][i], b[2], b[3]);
            }
        }
    }
}

// The lanes that share a row pass its elements to each other.
template <int m, int inner, int width>
__device__ __forceinline__ void multiply(Sums<m, width>& sums, const Factor<float, m, inner>& left,
                                         Tile<float, width> right) {
    const int lane = threadIdx.x % kWarp, t = lane % 4;
#pragma unroll
    for (int k = 0; k < inner / 8; ++k)
#pragma unroll 1
        for (int from = 0; from < 4; ++from)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int at = right.index(8 * k + 2 * from + e, 2 * t);
                float a[m][2];
#pragma unroll
                for (int i = 0; i < m; ++i)
#pragma unroll
                    for (int h = 0; h < 2; ++h)
                        a[i][h] = __shfl_sync(kAllLanes, left.value(i, k, 2 * h + e), from, 4);
#pragma unroll
                for (int n = 0; n < width / 8; ++n) {
                    const auto b =
                        *reinterpret_cast<const Vec<float, 2>*>(right.right_of(at, 8 * n));
#pragma unroll
                    for (int i = 0; i < m; ++i)
#pragma unroll
                        for (int h = 0; h < 2; ++h) {
                            sums.at[i][n][2 * h] += a[i][h] * b.at[0];
                            sums.at[i][n][2 * h + 1] += a[i][h] * b.at[1];
                        }
                }
            }
}

// Writes the first `there` rows of a warp's sums from row n of a head on, through rows of shared
// memory that only this warp uses.
template <class T, int m, int width>
__device__ __forceinline__ void store_rows(const Sums<m, width>& sums,
                                           const RowsInTile<T, m, width>& rows,
                                           const Heads<T>& heads, int64_t n, int head, int there) {
    const int lane = threadIdx.x % kWarp;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < m; ++i)
#pragma unroll
        for (int k = 0; k < width / 8; ++k)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const Vec<T, 2> pair = {from_float<T>(sums.at[i][k][2 * h]),
                                        from_float<T>(sums.at[i][k][2 * h + 1])};
                *reinterpret_cast<Vec<T, 2>*>(rows.tile.at(rows.row + 16 * i + 8 * h + lane / 4,
                                                           8 * k + 2 * (lane % 4))) = pair;
            }
    __syncwarp();
    constexpr int step = Tile<T, width>::kChunk;
    const int taken = min(there, 16 * m), size = heads.size;
    T* const to = heads.at(n, head);
    const int64_t stride = heads.row;
    if (heads.vectors) {
        const int chunks = size / step;
        for (int i = lane; i < taken * chunks; i += kWarp) {
            const int row = i / chunks, column = i % chunks * step;
            *reinterpret_cast<Vec<T, step>*>(to + row * stride + column) =
                *reinterpret_cast<const Vec<T, step>*>(rows.tile.at(rows.row + row, column));
        }
    } else {
        for (int i = lane; i < taken * size; i += kWarp)
            to[i / size * stride + i % size] = *rows.tile.at(rows.row + i / size, i % size);
    }
}

}  // namespace fomoe
