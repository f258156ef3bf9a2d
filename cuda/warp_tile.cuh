// The sums of a tile of a matmul, and the products that go into them, warp by warp: a block's four
// warps have a quarter each, two by two.
#pragma once

#include "cuda/tile_loader.cuh"

namespace fomoe {

constexpr int kTilePitch = kTileColumns + 8;  // floats from row to row of the finished tile

// The sums of `rows` x kTileColumns elements: tensor cores for bf16, FMA for f32.
template <class T, int rows, Along a_along, Along b_along>
class WarpTile;

template <int rows, Along a_along, Along b_along>
class WarpTile<nv_bf16, rows, a_along, b_along> {
    using A = TileLayout<nv_bf16, rows, a_along>;
    using B = TileLayout<nv_bf16, kTileColumns, b_along>;
    static constexpr int kRows = rows / 2, kColumns = kTileColumns / 2;  // of a warp
    static constexpr int kA = kRows / 16, kB = kColumns / 16;

public:
    // Adds the product of the tiles in shared memory.
    __device__ __forceinline__ void add(const char* a_tile, const char* b_tile) {
        const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
        // ldmatrix reads a fragment of 16 x 16 as four matrices of 8 x 8, and this lane names a
        // line of matrix 2 third + second: of a, `second` is the later half of the rows; of b, of
        // the depth.
        const int in8 = lane % 8, second = lane / 8 % 2, third = lane / 16;
#pragma unroll
        for (int k = 0; k < kDepth<nv_bf16>; k += 16) {
            uint32_t a[kA][4], b[kB][4];
#pragma unroll
            for (int i = 0; i < kA; ++i) {
                const int row = warp / 2 * kRows + i * 16;
                if constexpr (a_along == Along::depth)
                    ptx::ldmatrix_x4(a[i],
                                     a_tile + A::offset(row + second * 8 + in8, k / 8 + third));
                else
                    ptx::ldmatrix_x4_trans(
                        a[i], a_tile + A::offset(k + third * 8 + in8, row / 8 + second));
            }
#pragma unroll
            for (int j = 0; j < kB; ++j) {
                const int column = warp % 2 * kColumns + j * 16;
                if constexpr (b_along == Along::depth)
                    ptx::ldmatrix_x4(b[j],
                                     b_tile + B::offset(column + third * 8 + in8, k / 8 + second));
                else
                    ptx::ldmatrix_x4_trans(
                        b[j], b_tile + B::offset(k + second * 8 + in8, column / 8 + third));
            }
#pragma unroll
            for (int i = 0; i < kA; ++i)
#pragma unroll
                for (int j = 0; j < kB; ++j) {
                    ptx::mma_bf16(sum_[i][2 * j], a[i], b[j][0], b[j][1]);
                    ptx::mma_bf16(sum_[i][2 * j + 1], a[i], b[j][2], b[j][3]);
                }
        }
    }

    // Writes the sums to tile (rows, kTilePitch).
    __device__ __forceinline__ void store(float* tile) const {
        const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
        float* corner =
            tile + (warp / 2 * kRows + lane / 4) * kTilePitch + warp % 2 * kColumns + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < kA; ++i)
#pragma unroll
            for (int j = 0; j < 2 * kB; ++j)
#pragma unroll
                for (int low = 0; low < 2; ++low)
                    *reinterpret_cast<Vec<float, 2>*>(corner + (i * 16 + low * 8) * kTilePitch +
                                                      j * 8) = {sum_[i][j][2 * low],
                                                                sum_[i][j][2 * low + 1]};
    }

private:
    float sum_[kA][2 * kB][4] = {};
};

// Lanes lie 4 x 8, each with 8 x 8 sums.
template <int rows, Along a_along, Along b_along>
class WarpTile<float, rows, a_along, b_along> {
    using A = TileLayout<float, rows, a_along>;
    using B = TileLayout<float, kTileColumns, b_along>;
    static_assert(rows == 64);
    static constexpr int kRows = rows / 2, kColumns = kTileColumns / 2;  // of a warp
    static constexpr int kLanes[2] = {4, 8};

public:
    __device__ __forceinline__ void add(const char* a_tile, const char* b_tile) {
        const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
        for (int k = 0; k < kDepth<float>; k += 4) {
            float a[4][8], b[4][8];
            fetch<A, a_along, 4>(a, a_tile, k, warp / 2 * kRows, lane / 8);
            fetch<B, b_along, 8>(b, b_tile, k, warp % 2 * kColumns, lane % 8);
#pragma unroll
            for (int step = 0; step < 4; ++step)
#pragma unroll
                for (int i = 0; i < 8; ++i)
#pragma unroll
                    for (int j = 0; j < 8; ++j)
                        sum_[i][j] = fmaf(a[step][i], b[step][j], sum_[i][j]);
        }
    }

    __device__ __forceinline__ void store(float* tile) const {
        const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
        float* corner = tile + warp / 2 * kRows * kTilePitch + warp % 2 * kColumns;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            float* row = corner + place<a_along, 4>(lane / 8, i) * kTilePitch;
            if constexpr (b_along == Along::depth) {
#pragma unroll
                for (int j = 0; j < 8; ++j) row[place<b_along, 8>(lane % 8, j)] = sum_[i][j];
            } else {
#pragma unroll
                for (int j = 0; j < 8; j += 4)
                    *reinterpret_cast<Vec<float, 4>*>(row + place<b_along, 8>(lane % 8, j)) = {
                        sum_[i][j], sum_[i][j + 1], sum_[i][j + 2], sum_[i][j + 3]};
            }
        }
    }

private:
    // Where in the warp's part the i-th row or column of a lane is, which is one of `lanes`: such
    // that a fetch reads whole pieces from different banks.
    template <Along along, int lanes>
    static __device__ __forceinline__ int place(int lane, int i) {
        if constexpr (along == Along::depth) return lane + i * lanes;
        return lane * 4 + i / 4 * 4 * lanes + i % 4;
    }

    // The lane's 8 rows or columns from `first` on, for four steps of the summed index.
    template <class Layout, Along along, int lanes>
    static __device__ __forceinline__ void fetch(float (&x)[4][8], const char* tile, int k,
                                                 int first, int lane) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if constexpr (along == Along::depth) {
                const auto four = *reinterpret_cast<const Vec<float, 4>*>(
                    tile + Layout::offset(first + place<along, lanes>(lane, i), k / 4));
#pragma unroll
                for (int step = 0; step < 4; ++step) x[step][i] = four.at[step];
            } else {
                const int step = i / 2, begin = i % 2 * 4;
                const auto four = *reinterpret_cast<const Vec<float, 4>*>(
                    tile +
                    Layout::offset(k + step, (first + place<along, lanes>(lane, begin)) / 4));
#pragma unroll
                for (int e = 0; e < 4; ++e) x[step][begin + e] = four.at[e];
            }
        }
    }

    float sum_[8][8] = {};
};

}  // namespace fomoe
