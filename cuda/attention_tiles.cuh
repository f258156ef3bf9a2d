// What the kernels of attention share: tiles in shared memory, their loads, and the two products of
// tiles. A warp owns 16 m rows of a product; sums lie in registers as those of mma.m16n8k16, on f32
// as on bf16, so that everything about rows and columns is written once.
#pragma once

#include "cuda/device.cuh"

namespace fomoe {

// Where heads lie in the rows of qkv, and which keys a query sees. Positions count within a
// sequence; `first_row` is the row of its first token.
struct HeadLayout {
    const int32_t* begin;  // (N) or null
    int T, heads, kv_heads, head_size;
    bool vectors;  // all heads are aligned to 16 bytes and whole chunks of them

    __host__ __device__ int64_t row() const { return int64_t{heads + 2 * kv_heads} * head_size; }
    __device__ int64_t query_column(int head) const { return int64_t{head} * head_size; }
    __device__ int64_t key_column(int kv_head) const {
        return int64_t{heads + kv_head} * head_size;
    }
    __device__ int64_t value_column(int kv_head) const {
        return int64_t{heads + kv_heads + kv_head} * head_size;
    }
    __device__ int first_key(int64_t first_row, int query) const {
        return begin ? max(0, min(begin[first_row + query], query)) : 0;
    }
};

// The head, tile and sequence of a block; heads are next to each other, for they share keys.
struct BlockOfHeads {
    int head, tile;
    int64_t first_row;

    __device__ BlockOfHeads(const HeadLayout& layout, int heads, int tiles) {
        const unsigned block = blockIdx.x;
        head = block % heads;
        tile = block / heads % tiles;
        first_row = int64_t{block / heads / tiles} * layout.T;
    }
};

// Rows of `width` elements in shared memory. Chunks of 16 bytes are permuted within a row such that
// any 8 rows that begin at a multiple of 8 hold one column of chunks in 8 different groups of
// banks.
template <class T, int width>
struct Tile {
    static constexpr int kChunk = 16 / sizeof(T);
    static constexpr int kChunks = width / kChunk;
    static constexpr int kLowBit = kChunks & -kChunks;
    static constexpr int kTurns = kLowBit < 8 ? kLowBit : 8;  // ways to permute

    T* data;

    __device__ __forceinline__ T* at(int row, int column) const {
        const int chunk = column / kChunk ^ row / (8 / kTurns) % kTurns;
        return data + row * width + chunk * kChunk + column % kChunk;
    }
    // The shared address `columns` to the right of one in the first two chunks of a row. Tiles
    // begin at a multiple of 128 bytes.
    static __device__ __forceinline__ uint32_t right_of(uint32_t address, int columns) {
        const int chunks = columns / kChunk;
        return (address ^ chunks % kTurns * 16) + chunks / kTurns * kTurns * 16;
    }
};

// A tile of `rows` rows from global memory; rows from `there` on and columns from `size` on become
// 0. By all threads of the block; the vectors arrive with the cp.async group.
template <int rows, int threads, class T, int width>
__device__ __forceinline__ void load_tile(Tile<T, width> tile, const T* from, int64_t stride,
                                          int there, int size, bool vectors) {
    if (vectors) {
        using To = Tile<T, width>;
        if constexpr (threads % (8 * To::kChunks) == 0) {
            // Each thread goes down a column of chunks, whose place is the same in all its rows.
            constexpr int step = threads / To::kChunks;
            const int first = threadIdx.x / To::kChunks;
            const int column = threadIdx.x % To::kChunks * To::kChunk;
            const T* row = from + first * stride + column;
            T* to = tile.at(first, column);
#pragma unroll
            for (int i = 0; i < rows; i += step, row += step * stride) {
                const bool inside = first + i < there && column < size;
                ptx::cp_async_16(to + i * width, inside ? row : from, inside ? 16 : 0);
            }
        } else {
            // Not unrolled, which would keep the places of all rows in registers.
#pragma unroll 1
            for (int i = threadIdx.x; i < rows * To::kChunks; i += threads) {
                const int row = i / To::kChunks, column = i % To::kChunks * To::kChunk;
                const bool inside = row < there && column < size;
                ptx::cp_async_16(tile.at(row, column), inside ? from + row * stride + column : from,
                                 inside ? 16 : 0);
            }
        }
    } else {
#pragma unroll 1
        for (int i = threadIdx.x; i < rows * width; i += threads) {
            const int row = i / width, column = i % width;
            const bool inside = row < there && column < size;
            *tile.at(row, column) = inside ? from[row * stride + column] : from_float<T>(0.0f);
        }
    }
}

// Slots of shared memory that take turns: item i goes through slot i % slots.
template <int slots>
class Ring {
public:
    // load(item) begins a copy of that item, or does nothing behind the last one. What was begun
    // before start() arrives with the first item.
    template <class Load>
    __device__ __forceinline__ void start(Load load) {
#pragma unroll
        for (int i = 0; i < slots - 1; ++i) {
            load(i);
            ptx::cp_async_commit();
        }
    }
    // The slot of the next item, which is there. All threads call it; all are done with the item
    // before that one.
    template <class Load>
    __device__ __forceinline__ int next(Load load) {
        ptx::cp_async_wait<slots - 2>();
        __syncthreads();
        load(item_ + slots - 1);
        ptx::cp_async_commit();
        return item_++ % slots;
    }

private:
    unsigned item_ = 0;
};

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
    // x = f(r, column, x) for all, where r counts the rows of this lane: row_of(r) is that of the
    // warp.
    template <class F>
    __device__ __forceinline__ void map(F f) {
#pragma unroll
        for (int i = 0; i < m; ++i)
#pragma unroll
            for (int n = 0; n < columns / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    float& x = at[i][n][e];
                    x = f(2 * i + e / 2, 8 * n + 2 * (threadIdx.x % 4) + e % 2, x);
                }
    }
};

// The rows of a warp as left operand, read where they are needed.
template <class T, int m, int width>
struct RowsInTile {
    static constexpr int kRowBytes = width * sizeof(T);
    Tile<T, width> tile;
    int row;  // first

    __device__ __forceinline__ void fragments(uint32_t (&a)[m][4], int k) const {
        const int lane = threadIdx.x % kWarp;
#pragma unroll
        for (int i = 0; i < m; ++i) {
            const uint32_t at = ptx::shared_address(tile.at(row + lane % 16, lane / 16 * 8));
            ptx::ldmatrix_x4(a[i], tile.right_of(at, k) + 16 * i * kRowBytes);
        }
    }
};

// The same, read once.
template <int m, int width>
struct RowsInRegisters {
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
#pragma unroll
    for (int k = 0; k < width; k += 16) {
        uint32_t a[m][4];
        left.fragments(a, k);
#pragma unroll
        for (int n = 0; n < columns; n += 16) {
            uint32_t b[4];
            ptx::ldmatrix_x4(b, right.right_of(at, k) + n * row_bytes);
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

// sums += left right, with left the sums of an earlier product and right (inner x width). On bf16
// left is rounded to it.
template <int m, int inner, int width>
__device__ __forceinline__ void multiply(Sums<m, width>& sums, const Sums<m, inner>& left,
                                         Tile<nv_bf16, width> right) {
    constexpr int row_bytes = width * sizeof(nv_bf16);
    const int lane = threadIdx.x % kWarp;
    const uint32_t at = ptx::shared_address(right.at(lane % 16, lane / 16 * 8));
#pragma unroll
    for (int k = 0; k < inner; k += 16) {
        uint32_t a[m][4];
#pragma unroll
        for (int i = 0; i < m; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const auto& piece = left.at[i][k / 8 + e / 2];
                a[i][e] = ptx::pack_bf16(piece[e % 2 * 2], piece[e % 2 * 2 + 1]);
            }
#pragma unroll
        for (int n = 0; n < width; n += 16) {
            uint32_t b[4];
            ptx::ldmatrix_x4_trans(b, right.right_of(at, n) + k * row_bytes);
#pragma unroll
            for (int i = 0; i < m; ++i) {
                ptx::mma_bf16(sums.at[i][n / 8], a[i], b[0], b[1]);
                ptx::mma_bf16(sums.at[i][n / 8 + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// The lanes that share a row pass its elements to each other.
template <int m, int inner, int width>
__device__ __forceinline__ void multiply(Sums<m, width>& sums, const Sums<m, inner>& left,
                                         Tile<float, width> right) {
    const int lane = threadIdx.x % kWarp, t = lane % 4;
#pragma unroll
    for (int k = 0; k < inner / 8; ++k)
#pragma unroll 1
        for (int from = 0; from < 4; ++from)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float a[m][2];
#pragma unroll
                for (int i = 0; i < m; ++i)
#pragma unroll
                    for (int h = 0; h < 2; ++h)
                        a[i][h] = __shfl_sync(kAllLanes, left.at[i][k][2 * h + e], from, 4);
#pragma unroll
                for (int n = 0; n < width / 8; ++n) {
                    const auto b = *reinterpret_cast<const Vec<float, 2>*>(
                        right.at(8 * k + 2 * from + e, 8 * n + 2 * t));
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

// Writes the first `there` rows and `size` columns of a warp's sums to global memory, through rows
// of shared memory that only this warp uses.
template <class T, int m, int width>
__device__ __forceinline__ void store_rows(const Sums<m, width>& sums,
                                           const RowsInTile<T, m, width>& rows, T* to,
                                           int64_t stride, int there, int size, bool vectors) {
    const int lane = threadIdx.x % kWarp;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < m; ++i)
#pragma unroll
        for (int n = 0; n < width / 8; ++n)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const Vec<T, 2> pair = {from_float<T>(sums.at[i][n][2 * h]),
                                        from_float<T>(sums.at[i][n][2 * h + 1])};
                *reinterpret_cast<Vec<T, 2>*>(rows.tile.at(rows.row + 16 * i + 8 * h + lane / 4,
                                                           8 * n + 2 * (lane % 4))) = pair;
            }
    __syncwarp();
    constexpr int step = Tile<T, width>::kChunk;
    const int taken = min(there, 16 * m);
    if (vectors) {
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

// Calls body.template operator()<width>() with the narrowest rows of tiles that hold a head.
template <class T, class Body>
void with_width(int64_t head_size, Body body) {
    constexpr bool is_bf16 = sizeof(T) == 2;
    FOMOE_CHECK(head_size <= 256, "attention: a head of ", head_size, " elements, at most 256");
    if (head_size <= 32) return body.template operator()<32>();
    if (head_size <= 64) return body.template operator()<64>();
    if constexpr (is_bf16)
        if (head_size <= 96) return body.template operator()<96>();
    if (head_size <= 128) return body.template operator()<128>();
    if constexpr (is_bf16)
        if (head_size <= 192) return body.template operator()<192>();
    body.template operator()<256>();
}

template <class T, class Op>
HeadLayout layout_of(const Op& op) {
    FOMOE_CHECK(op.scale > 0, Op::name, ": scale ", op.scale);
    const int64_t Dh = op.head_size();
    const bool aligned = std::apply(
        [](const auto&... x) { return ((reinterpret_cast<uintptr_t>(x.data) % 16 == 0) && ...); },
        Op::computed(op));
    return {.begin = data_of<int32_t>(op.begin),
            .T = static_cast<int>(op.qkv.shape[0] / op.sequences),
            .heads = op.heads,
            .kv_heads = op.kv_heads,
            .head_size = static_cast<int>(Dh),
            .vectors = aligned && Dh * int64_t{sizeof(T)} % 16 == 0};
}

inline unsigned grid_of(int64_t blocks) {
    FOMOE_CHECK(blocks <= INT32_MAX, "attention: ", blocks, " blocks");
    return static_cast<unsigned>(blocks);
}

template <class Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "cudaFuncSetAttribute");
}

}  // namespace fomoe
