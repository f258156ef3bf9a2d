// How a block brings tiles of a matmul's operands into shared memory.
#pragma once

#include "cuda/rows.cuh"

namespace fomoe {

constexpr int kTileThreads = 128;
constexpr int kPieceBytes = 16;    // what is moved at once
constexpr int kDepthBytes = 64;    // of the summed index in a tile
constexpr int kTileColumns = 128;  // of the result

template <class T>
constexpr int kDepth = kDepthBytes / sizeof(T);

// What an operand's lines in memory run along: the summed index, or the index of the result that
// the operand has.
enum class Along { depth, span };

// A tile of `span` x kDepth elements as it lies in shared memory, line by line as in global memory.
// The pieces of a line change places from line to line so that eight lines' pieces of the same
// column, which ldmatrix reads at once, lie in different banks.
template <class T, int span, Along along>
struct TileLayout {
    static constexpr int kLines = along == Along::depth ? span : kDepth<T>;
    static constexpr int kPieces =
        along == Along::depth ? kDepthBytes / kPieceBytes : span / kWide<T>;  // of a line
    static constexpr int kBytes = span * kDepthBytes;

    static __device__ __forceinline__ int offset(int line, int piece) {
        const int moved = along == Along::depth ? piece ^ (line / 2 % 4) : piece ^ (line % 8);
        return (line * kPieces + moved) * kPieceBytes;
    }
};

// Lines of global memory: line i begins at element index[i] * stride, or i * stride without index.
template <class T>
struct Lines {
    const void* data;      // T, or bf16 if narrow
    const int32_t* index;  // may be null
    int stride;
    int begin, end;  // the lines that there are; others count as 0
    int width;       // elements of a line that there are; others count as 0
    bool narrow;

    __device__ __forceinline__ const char* address(int line) const {
        const int size = narrow ? sizeof(nv_bf16) : sizeof(T);
        return static_cast<const char*>(data) + int64_t{line} * stride * size;
    }
};

// Copies the elements of a line from `column` on to shared memory, 0 where column >= width. With
// `vectors`, width and the address are whole pieces, and the copy is under way until it is waited
// for.
template <class T, bool vectors>
__device__ __forceinline__ void copy_piece(char* to, const char* line, int column, int width,
                                           bool narrow) {
    if constexpr (vectors) {
        ptx::cp_async_16(to, line + column * static_cast<int>(sizeof(T)),
                         column < width ? kPieceBytes : 0);
    } else {
#pragma unroll 4  // all at once take too many registers
        for (int e = 0; e < kWide<T>; ++e) {
            const int i = column + e;
            T x = from_float<T>(0);
            if (i < width)
                x = narrow ? from_float<T>(to_float(reinterpret_cast<const nv_bf16*>(line)[i]))
                           : reinterpret_cast<const T*>(line)[i];
            reinterpret_cast<T*>(to)[e] = x;
        }
    }
}

// Fills tiles with the operand's next kDepth elements of the summed index at every call.
template <class T, int span, Along along, bool vectors>
class TileLoader;

// Line j of the tile is line first + j; or, of a tile in two halves, the later half's lines are
// those `second` lines behind the earlier half's.
template <class T, int span, bool vectors>
class TileLoader<T, span, Along::depth, vectors> {
    using Layout = TileLayout<T, span, Along::depth>;
    static constexpr int kStep = kTileThreads / Layout::kPieces;
    static constexpr int kCount = span / kStep;

public:
    __device__ __forceinline__ TileLoader(const Lines<T>& from, int first, int half = span,
                                          int second = 0)
        : column_(threadIdx.x % Layout::kPieces * kWide<T>), narrow_(from.narrow) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int j = threadIdx.x / Layout::kPieces + i * kStep;
            const bool later = j >= half;
            const int line = first + (later ? j - half : j);
            const bool there = line < from.end;
            const int at = there ? line + (later ? second : 0) : from.begin;
            line_[i] = from.address(from.index ? from.index[at] : at);
            width_[i] = there ? from.width : 0;
        }
    }

    __device__ __forceinline__ void load(char* tile) {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            copy_piece<T, vectors>(tile + Layout::offset(threadIdx.x / Layout::kPieces + i * kStep,
                                                         threadIdx.x % Layout::kPieces),
                                   line_[i], column_, width_[i], narrow_);
        column_ += kDepth<T>;
    }

private:
    const char* line_[kCount];
    int width_[kCount];  // 0 of a line that is not there
    int column_;         // this thread's in the next tile
    bool narrow_;
};

// Column j of the tile is element first + j of each line.
template <class T, int span, bool vectors>
class TileLoader<T, span, Along::span, vectors> {
    using Layout = TileLayout<T, span, Along::span>;
    static constexpr int kStep = kTileThreads / Layout::kPieces;
    static constexpr int kCount = Layout::kLines / kStep;

public:
    __device__ __forceinline__ TileLoader(const Lines<T>& from, int first)
        : from_(from),
          column_(first + threadIdx.x % Layout::kPieces * kWide<T>),
          at_(from.begin + threadIdx.x / Layout::kPieces) {
        if (column_ >= from.width) at_ = from.end;  // nothing of any line
        find();
    }

    __device__ __forceinline__ void load(char* tile) {
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            copy_piece<T, vectors>(tile + Layout::offset(threadIdx.x / Layout::kPieces + i * kStep,
                                                         threadIdx.x % Layout::kPieces),
                                   from_.address(line_[i]), column_,
                                   at_ + i * kStep < from_.end ? from_.width : 0, from_.narrow);
        at_ += kDepth<T>;
        find();
    }

private:
    // The lines of the next load, ahead of it since their index has to come from memory.
    __device__ __forceinline__ void find() {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const int line = min(at_ + i * kStep, from_.end - 1);
            line_[i] = from_.index ? from_.index[line] : line;
        }
    }

    Lines<T> from_;
    int column_;
    int at_;  // this thread's first line in the next tile
    int line_[kCount];
};

}  // namespace fomoe
