// Matmuls over rows that belong to experts, any number of rows to each: one launch for all experts,
// and the counts stay on the device.
#pragma once

#include "cuda/warp_tile.cuh"
#include "ops/experts.h"

namespace fomoe {

constexpr int kStages = 4;  // tiles of each operand that are there or under way

template <int rows>
constexpr int tile_bytes() {
    const int stages = kStages * (rows + kTileColumns) * kDepthBytes;
    const int result = rows * kTilePitch * static_cast<int>(sizeof(float));
    return stages > result ? stages : result;
}

// The weights of the experts, wherever they lie.
template <class T>
struct ExpertWeights {
    const T* weights;
    const nv_bf16* frozen;
    const int64_t* offset;  // (R)
    int trained;            // slots below are in `weights`

    __device__ __forceinline__ bool narrow(int slot) const {
        return sizeof(T) != sizeof(nv_bf16) && slot >= trained;
    }
    // From element `skip` of an expert on.
    __device__ __forceinline__ const void* of(int slot, int64_t skip) const {
        const int64_t at = offset[slot] + skip;
        if (slot < trained) return weights + at;
        return frozen + at;
    }
    // Whether an expert can be read in whole pieces.
    __device__ __forceinline__ bool whole_pieces(int slot) const {
        return !narrow(slot) && reinterpret_cast<uintptr_t>(of(slot, 0)) % kPieceBytes == 0;
    }
};

template <class T, class AnyExperts>
ExpertWeights<T> weights_of(const AnyExperts& op) {
    return {.weights = data_of<T>(op.weights),
            .frozen = data_of<nv_bf16>(op.frozen),
            .offset = data_of<int64_t>(op.expert_offset),
            .trained = static_cast<int>(op.expert_offset.shape[0]) - op.n_frozen};
}

// Consecutive rows of one expert.
struct RowTile {
    int slot, begin;
    int rows;  // none if <= 0
};

// Tiles of `rows` rows: those of slot s have numbers from offset[s] / rows + s on, which leaves a
// number for each of them whatever the others have. Call it from a whole block.
template <int rows>
__device__ __forceinline__ RowTile find_row_tile(const int32_t* offset, int R, int number) {
    int upto = 0;  // slots whose first number is not above `number`
    for (int base = 0; base < R; base += kTileThreads) {
        const int s = base + threadIdx.x;
        upto += __syncthreads_count(s < R && offset[s] / rows + s <= number);
    }
    const int slot = upto - 1, first = offset[slot];
    const int begin = first + (number - first / rows - slot) * rows;
    return {slot, begin, min(rows, offset[slot + 1] - begin)};
}
template <int rows>
int64_t row_tiles(int64_t M, int64_t R) {
    return R == 0 || M == 0 ? 0 : M / rows + R;
}

// tile (rows, kTilePitch) in shared memory = the product over `depth` elements of the summed index.
// The block sees the whole tile when it returns.
template <class T, int rows, Along a_along, Along b_along, bool vectors>
__device__ __forceinline__ float* multiply(char* shared, TileLoader<T, rows, a_along, vectors> a,
                                           TileLoader<T, kTileColumns, b_along, vectors> b,
                                           int depth) {
    using A = TileLayout<T, rows, a_along>;
    using B = TileLayout<T, kTileColumns, b_along>;
    const auto a_tile = [&](int step) { return shared + step % kStages * (A::kBytes + B::kBytes); };
    const auto b_tile = [&](int step) { return a_tile(step) + A::kBytes; };
    const int steps = ceil_div(depth, kDepth<T>);
    // Tiles behind the last are filled with 0, which costs less than a branch.
    const auto load = [&](int step) {
        if (vectors || step < steps) {
            a.load(a_tile(step));
            b.load(b_tile(step));
        }
        ptx::cp_async_commit();
    };

    WarpTile<T, rows, a_along, b_along> sums;
#pragma unroll 1
    for (int step = 0; step < kStages - 1; ++step) load(step);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        ptx::cp_async_wait<kStages - 2>();
        __syncthreads();
        load(step + kStages - 1);
        sums.add(a_tile(step), b_tile(step));
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
    float* tile = reinterpret_cast<float*>(shared);
    sums.store(tile);
    __syncthreads();
    return tile;
}

// out[r] = in[r] times a matrix of the row's expert, summed over `depth`: (columns, depth) if it
// lies along the depth, else (depth, columns).
template <class T>
struct RowProduct {
    float* out;             // (M, columns)
    const T* in;            // (M, depth)
    const int32_t* offset;  // (R + 1)
    ExpertWeights<T> weights;
    int64_t skip;  // elements of an expert before the matrix
    int R, depth, columns;
    bool whole_pieces;  // of all but the weights
};

template <class T, int rows, Along along, bool vectors>
__device__ __forceinline__ void product_tile(const RowProduct<T>& op, RowTile to, int first,
                                             char* shared) {
    const Lines<T> a{op.in, nullptr, op.depth, to.begin, to.begin + to.rows, op.depth, false};
    const bool by_depth = along == Along::depth;
    const int lines = by_depth ? op.columns : op.depth, width = by_depth ? op.depth : op.columns;
    const Lines<T> b{op.weights.of(to.slot, op.skip), nullptr, width, 0, lines, width,
                     op.weights.narrow(to.slot)};
    const float* tile = multiply<T, rows, Along::depth, along, vectors>(shared, {a, to.begin},
                                                                        {b, first}, op.depth);

    constexpr int width_out = vectors ? 4 : 1, kPerRow = kTileColumns / width_out;
    const int column = threadIdx.x % kPerRow * width_out;
    if (first + column >= op.columns) return;
    float* out = op.out + int64_t{to.begin} * op.columns + first + column;
    for (int row = threadIdx.x / kPerRow; row < to.rows; row += kTileThreads / kPerRow)
        *reinterpret_cast<Vec<float, width_out>*>(out + int64_t{row} * op.columns) =
            *reinterpret_cast<const Vec<float, width_out>*>(tile + row * kTilePitch + column);
}

template <class T, int rows, Along along>
__global__ void __launch_bounds__(kTileThreads, 2) multiply_rows(const RowProduct<T> op) {
    extern __shared__ __align__(16) char shared[];
    const int column_tiles = ceil_div(op.columns, kTileColumns);
    const RowTile to = find_row_tile<rows>(op.offset, op.R, blockIdx.x / column_tiles);
    if (to.rows <= 0) return;
    const int first = blockIdx.x % column_tiles * kTileColumns;
    if (op.whole_pieces && op.weights.whole_pieces(to.slot))
        product_tile<T, rows, along, true>(op, to, first, shared);
    else
        product_tile<T, rows, along, false>(op, to, first, shared);
}

// Calls body.template operator()<rows>() with the height of tiles for M rows of R experts: low ones
// waste less of experts with few rows.
template <class T, class Body>
void with_tile_rows(int64_t M, int64_t R, Body body) {
    constexpr int64_t kFew = 256;
    if constexpr (sizeof(T) == sizeof(nv_bf16))
        if (M > kFew * R) return body.template operator()<128>();
    body.template operator()<64>();
}

// A kernel of tiles, one to a block.
template <int rows, class Arguments>
void launch_tiles(void (*kernel)(Arguments), const char* name, int64_t tiles,
                  const Arguments& arguments, const Stream& s) {
    if (tiles == 0) return;
    FOMOE_CHECK(tiles <= INT32_MAX, name, ": ", tiles, " tiles");
    allow_shared(kernel, tile_bytes<rows>());
    kernel<<<static_cast<unsigned>(tiles), kTileThreads, tile_bytes<rows>(), s.stream>>>(arguments);
    check_launch(name);
}

template <class T, Along along>
void launch_multiply_rows(const RowProduct<T>& op, int64_t M, const Stream& s) {
    with_tile_rows<T>(M, op.R, [&]<int rows>() {
        launch_tiles<rows>(multiply_rows<T, rows, along>, "multiply_rows",
                           row_tiles<rows>(M, op.R) * ceil_div(op.columns, kTileColumns), op, s);
    });
}

}  // namespace fomoe
