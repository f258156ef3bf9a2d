// The experts' forward pass: sort the choices, two grouped matmuls, return the rows to their
// tokens.
#include "cuda/activation.cuh"
#include "cuda/expert_rows.cuh"
#include "cuda/grouped_matmul.cuh"
#include "cuda/rows.cuh"

namespace fomoe {
namespace {

// hidden = gathered x times W_in, and what the activation makes of it.
template <class T>
struct Hidden {
    T* hidden;              // (M, U F)
    T* active;              // (M, F)
    const T* x;             // (N, D)
    const int32_t* token;   // (M)
    const int32_t* offset;  // (R + 1)
    ExpertWeights<T> weights;
    int R, D, F;
    Activation activation;
    bool whole_pieces;

    // Elements of F in a tile: with a gate, its columns fill the earlier half and those of the up
    // projection the later.
    __host__ __device__ int span() const {
        return activation == Activation::swiglu ? kTileColumns / 2 : kTileColumns;
    }
};

template <class T, int rows, bool vectors>
__device__ __forceinline__ void hidden_tile(const Hidden<T>& op, RowTile to, int first,
                                            char* shared) {
    const int span = op.span(), U = kTileColumns / span;
    const Lines<T> a{op.x, op.token, op.D, to.begin, to.begin + to.rows, op.D, false};
    const Lines<T> b{op.weights.of(to.slot, 0), nullptr, op.D, 0, op.F, op.D,
                     op.weights.narrow(to.slot)};
    const float* tile = multiply<T, rows, Along::depth, Along::depth, vectors>(
        shared, {a, to.begin}, {b, first, span, op.F}, op.D);

    constexpr int width = vectors ? kWide<T> : 1;
    const int pieces = span / width;
    for (int i = threadIdx.x; i < to.rows * pieces; i += kTileThreads) {
        const int row = i / pieces, column = i % pieces * width;
        if (first + column >= op.F) continue;
        const float* from = tile + row * kTilePitch + column;
        const int64_t at = (to.begin + row) * int64_t{op.F};
        T* hidden = op.hidden + at * U + first + column;
        float x[width], up[width];
        load_shared(x, from);
        store(hidden, x);
        if (U == 2) {
            load_shared(up, from + span);
            store(hidden + op.F, up);
        }
#pragma unroll
        for (int j = 0; j < width; ++j) {
            x[j] = value_of(op.activation, x[j]);
            if (U == 2) x[j] *= up[j];
        }
        store(op.active + at + first + column, x);
    }
}

template <class T, int rows>
__global__ void __launch_bounds__(kTileThreads, 2) expert_hidden(const Hidden<T> op) {
    extern __shared__ __align__(16) char shared[];
    const int column_tiles = ceil_div(op.F, op.span());
    const RowTile to = find_row_tile<rows>(op.offset, op.R, blockIdx.x / column_tiles);
    if (to.rows <= 0) return;
    const int first = blockIdx.x % column_tiles * op.span();
    if (op.whole_pieces && op.weights.whole_pieces(to.slot))
        hidden_tile<T, rows, true>(op, to, first, shared);
    else
        hidden_tile<T, rows, false>(op, to, first, shared);
}

template <class T>
void forward(const ExpertsForward& op, const Stream& s) {
    const int64_t M = op.choice.shape[0], D = op.x.shape[1], F = op.d_expert;
    const int R = static_cast<int>(op.expert_offset.shape[0]);
    const RowMaps maps = sort_choices(op, s);
    T* active = s.scratch.take<T>(M * F);
    float* out = s.scratch.take<float>(M * D);
    const bool whole_pieces =
        fits_wide<T>(D, {op.x.data}) && fits_wide<T>(F, {op.hidden.data, active});

    const Hidden<T> hidden{.hidden = data_of<T>(op.hidden),
                           .active = active,
                           .x = data_of<T>(op.x),
                           .token = maps.token,
                           .offset = data_of<int32_t>(op.offset),
                           .weights = weights_of<T>(op),
                           .R = R,
                           .D = static_cast<int>(D),
                           .F = static_cast<int>(F),
                           .activation = op.activation,
                           .whole_pieces = whole_pieces};
    with_tile_rows<T>(M, R, [&]<int rows>() {
        launch_tiles<rows>(expert_hidden<T, rows>, "expert_hidden",
                           row_tiles<rows>(M, R) * ceil_div(hidden.F, hidden.span()), hidden, s);
    });
    launch_multiply_rows<T, Along::depth>({.out = out,
                                           .in = active,
                                           .offset = hidden.offset,
                                           .weights = hidden.weights,
                                           .skip = op.matrices() * F * D,
                                           .R = R,
                                           .depth = hidden.F,
                                           .columns = hidden.D,
                                           .whole_pieces = whole_pieces},
                                          M, s);
    return_rows({.y = op.y,
                 .rows = view(out, Shape(M, D)),
                 .row_of = maps.row_of,
                 .gate = data_of<float>(op.gate),
                 .K = op.slot.shape[1]},
                s);
}

}  // namespace

void CudaBackend::execute(const ExpertsForward& op, Queue queue) {
    const Stream s = begin(queue);
    with_compute_type(op.x.dtype, [&]<class T>() { forward<T>(op, s); });
}

}  // namespace fomoe
