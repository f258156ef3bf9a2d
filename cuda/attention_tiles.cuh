// What the kernels of attention share: where heads lie, and tiles of them in shared memory.
#pragma once

#include "cuda/device.cuh"

namespace fomoe {

// A matrix whose rows are heads, next to each other.
template <class T>
struct Heads {
    T* data;
    int64_t row;   // elements of a row
    int size;      // elements of a head
    bool vectors;  // heads are whole chunks of 16 bytes, aligned to that

    __device__ T* at(int64_t n, int head) const { return data + n * row + head * size; }
};

// Which heads there are in a row of qkv, and which keys a query sees. Positions count within a
// sequence; `first_row` is the row of its first token.
struct HeadLayout {
    const int32_t* begin;  // (N) or null
    int T, heads, kv_heads;

    __device__ int key_head(int kv_head) const { return heads + kv_head; }
    __device__ int value_head(int kv_head) const { return heads + kv_heads + kv_head; }
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

    static __device__ __forceinline__ int index(int row, int column) {
        const int chunk = column / kChunk ^ row / (8 / kTurns) % kTurns;
        return row * width + chunk * kChunk + column % kChunk;
    }
    __device__ __forceinline__ T* at(int row, int column) const {
        return data + index(row, column);
    }
    // `columns` to the right of an index in the first two chunks of a row.
    __device__ __forceinline__ T* right_of(int index, int columns) const {
        constexpr int turned = kTurns * kChunk;
        return data + (index ^ columns % turned) + columns / turned * turned;
    }
    // The same with addresses in shared memory. Tiles begin at a multiple of 128 bytes.
    static __device__ __forceinline__ uint32_t address_right_of(uint32_t address, int columns) {
        const int chunks = columns / kChunk;
        return (address ^ chunks % kTurns * 16) + chunks / kTurns * kTurns * 16;
    }
};

// A tile of `rows` rows of a head, whose vectors arrive with the cp.async group; rows from `there`
// on and columns behind the head become 0. By all threads of the block.
template <int rows, int threads, class T, int width>
__device__ __forceinline__ void load_tile(Tile<T, width> tile, const Heads<const T>& heads,
                                          int64_t n, int head, int there) {
    using To = Tile<T, width>;
    const T* const from = heads.at(n, head);
    const int64_t stride = heads.row;
    if constexpr (threads % (8 * To::kChunks) == 0) {
        // Each thread goes down a column of chunks, whose place is the same in all its rows.
        constexpr int step = threads / To::kChunks;
        const int first = threadIdx.x / To::kChunks;
        const int column = threadIdx.x % To::kChunks * To::kChunk;
        const T* row = from + first * stride + column;
        T* to = tile.at(first, column);
#pragma unroll
        for (int i = 0; i < rows; i += step, row += step * stride) {
            const bool inside = first + i < there && column < heads.size;
            if (rows % step == 0 || first + i < rows)
                ptx::cp_async_16(to + i * width, inside ? row : from, inside ? 16 : 0);
        }
    } else {
        // Not unrolled, which would keep the places of all rows in registers.
#pragma unroll 1
        for (int i = threadIdx.x; i < rows * To::kChunks; i += threads) {
            const int row = i / To::kChunks, column = i % To::kChunks * To::kChunk;
            const bool inside = row < there && column < heads.size;
            ptx::cp_async_16(tile.at(row, column), inside ? from + row * stride + column : from,
                             inside ? 16 : 0);
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

template <class Op>
HeadLayout layout_of(const Op& op) {
    FOMOE_CHECK(op.scale > 0, Op::name, ": scale ", op.scale);
    return {.begin = data_of<int32_t>(op.begin),
            .T = static_cast<int>(op.qkv.shape[0] / op.sequences),
            .heads = op.heads,
            .kv_heads = op.kv_heads};
}

// T is const for an input.
template <class T, class AnyTensor>
Heads<T> heads_of(const AnyTensor& x, int count) {
    const int64_t size = x.shape[1] / count;
    return {.data = static_cast<T*>(x.data),
            .row = x.shape[1],
            .size = static_cast<int>(size),
            .vectors = size * int64_t{sizeof(T)} % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(x.data) % 16 == 0};
}

inline unsigned grid_of(int64_t blocks) {
    FOMOE_CHECK(blocks <= INT32_MAX, "attention: ", blocks, " blocks");
    return static_cast<unsigned>(blocks);
}

constexpr int kPadThreads = 256;
template <class T>
__global__ void __launch_bounds__(kPadThreads)
    pad_heads(T* to, int to_size, const T* from, int from_size, int64_t heads) {
    const int64_t i = int64_t{blockIdx.x} * kPadThreads + threadIdx.x;
    const int64_t head = i / to_size, column = i % to_size;
    if (head < heads)
        to[i] = column < from_size ? from[head * from_size + column] : from_float<T>(0.0f);
}

// The same heads such that they can be read as vectors: copied where they cannot.
template <class T>
Heads<const T> as_vectors(const Heads<const T>& x, int64_t rows, const Stream& s) {
    if (x.vectors) return x;
    constexpr int chunk = 16 / sizeof(T);
    const int size = ceil_div(x.size, chunk) * chunk;
    const int64_t heads = x.row / x.size, row = heads * size;
    T* const to = s.scratch.template take<T>(rows * row);
    pad_heads<<<grid_of(ceil_div<int64_t>(rows * row, kPadThreads)), kPadThreads, 0, s.stream>>>(
        to, size, x.data, x.size, rows * heads);
    check_launch("pad_heads");
    return {.data = to, .row = row, .size = size, .vectors = true};
}

template <class Kernel>
void allow_shared_memory(Kernel* kernel, int bytes) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "cudaFuncSetAttribute");
}

}  // namespace fomoe
