// The experts' backward pass: back through W_out and the activation, back through W_in, the
// gradients of both, and the rows' gradients back to their tokens.
#include "cuda/activation.cuh"
#include "cuda/expert_rows.cuh"
#include "cuda/grouped_matmul.cuh"
#include "cuda/rows.cuh"

namespace fomoe {
namespace {

constexpr int kThreads = 256;

// With t = gathered dy times W_out, the gradient of the activation before the gate: dhidden for
// gate * t, and dot(t, a), which is the gate's gradient.
template <class T>
struct DHidden {
    T* dhidden;             // (M, U F)
    T* active;              // (M, F), gate * a
    float* dgate;           // (M, column tiles), what each tile has of the gate's gradient
    const T* dy;            // (N, D)
    const T* hidden;        // (M, U F)
    const float* gate;      // (N, K)
    const int32_t* choice;  // (M)
    const int32_t* token;   // (M)
    const int32_t* offset;  // (R + 1)
    ExpertWeights<T> weights;
    int64_t skip;  // elements of an expert before W_out
    int R, D, F;
    Activation activation;
    bool whole_pieces;

    __host__ __device__ int column_tiles() const { return ceil_div(F, kTileColumns); }
};

// A row's part from `column` of the tile on: writes it and returns its part of dot(t, a).
template <int width, class T>
__device__ __forceinline__ float back_through_activation(const DHidden<T>& op, int64_t row, int f,
                                                         const float* from) {
    const bool gated = op.activation == Activation::swiglu;
    const int64_t at = row * op.F * (gated ? 2 : 1) + f;
    const float gate = op.gate[op.choice[row]];
    float t[width], x[width], up[width], a[width], dot = 0;
    load_shared(t, from);
    load(x, op.hidden + at);
    if (gated) load(up, op.hidden + at + op.F);
#pragma unroll
    for (int j = 0; j < width; ++j) {
        const Slope slope = slope_of(op.activation, x[j]);
        const float u = gated ? up[j] : 1.0f;
        a[j] = slope.value * u;
        dot = fmaf(t[j], a[j], dot);
        a[j] *= gate;
        x[j] = gate * t[j] * u * slope.derivative;
        up[j] = gate * t[j] * slope.value;
    }
    store(op.active + row * op.F + f, a);
    store(op.dhidden + at, x);
    if (gated) store(op.dhidden + at + op.F, up);
    return dot;
}

template <class T, int rows, bool vectors>
__device__ __forceinline__ void dhidden_tile(const DHidden<T>& op, RowTile to, int first,
                                             char* shared) {
    const Lines<T> a{op.dy, op.token, op.D, to.begin, to.begin + to.rows, op.D, false};
    const Lines<T> b{op.weights.of(to.slot, op.skip), nullptr, op.F, 0, op.D, op.F,
                     op.weights.narrow(to.slot)};
    const float* tile = multiply<T, rows, Along::depth, Along::span, vectors>(shared, {a, to.begin},
                                                                              {b, first}, op.D);

    constexpr int width = vectors ? kWide<T> : 1;
    constexpr int kLanes = vectors ? kTileColumns / width : kWarp;  // of a row
    const int lane = threadIdx.x % kLanes;
    for (int i = threadIdx.x / kLanes; i < rows; i += kTileThreads / kLanes) {
        const int64_t row = to.begin + i;
        float dot = 0;
        for (int column = lane * width; column < kTileColumns; column += kLanes * width)
            if (i < to.rows && first + column < op.F)
                dot += back_through_activation<width>(op, row, first + column,
                                                      tile + i * kTilePitch + column);
        for (int distance = kLanes / 2; distance > 0; distance /= 2)
            dot += __shfl_xor_sync(kAllLanes, dot, distance);
        if (lane == 0 && i < to.rows)
            op.dgate[row * op.column_tiles() + first / kTileColumns] = dot;
    }
}

template <class T, int rows>
__global__ void __launch_bounds__(kTileThreads, 2) expert_dhidden(const DHidden<T> op) {
    extern __shared__ __align__(16) char shared[];
    const RowTile to = find_row_tile<rows>(op.offset, op.R, blockIdx.x / op.column_tiles());
    if (to.rows <= 0) return;
    const int first = blockIdx.x % op.column_tiles() * kTileColumns;
    if (op.whole_pieces && op.weights.whole_pieces(to.slot))
        dhidden_tile<T, rows, true>(op, to, first, shared);
    else
        dhidden_tile<T, rows, false>(op, to, first, shared);
}

// dgate[n, k] = the sum over its row's tiles, in order.
__global__ void __launch_bounds__(kThreads)
    sum_dgate(float* dgate, const float* parts, const int32_t* row_of, int64_t choices, int tiles) {
    const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= choices) return;
    float sum = 0;
    if (row_of[i] >= 0)
        for (int t = 0; t < tiles; ++t) sum += parts[int64_t{row_of[i]} * tiles + t];
    dgate[i] = sum;
}

// A gradient of weights: c (m, n) = or += a^T b over the rows of an expert.
template <class T>
struct WeightGradient {
    const T *a, *b;                    // (rows, m), (rows, n)
    const int32_t *a_index, *b_index;  // of the rows, or null
    int m, n;
    int64_t skip;  // elements of an expert before c
};

template <class T>
struct WeightGradients {
    float* dweights;
    const int64_t* expert_offset;
    const int32_t* offset;  // (R + 1)
    WeightGradient<T> of[2];
    int tiles[2];  // of an expert
    bool whole_pieces, accumulate;
};

template <class T>
constexpr int kGradientRows = sizeof(T) == sizeof(nv_bf16) ? 128 : 64;  // of a tile

template <class T, bool vectors>
__device__ __forceinline__ void gradient_tile(const WeightGradient<T>& op, float* c, int begin,
                                              int end, int m, int n, bool accumulate,
                                              char* shared) {
    constexpr int kRows = kGradientRows<T>;
    const Lines<T> a{op.a, op.a_index, op.m, begin, end, op.m, false};
    const Lines<T> b{op.b, op.b_index, op.n, begin, end, op.n, false};
    const bool any = begin < end;
    const float* tile = any ? multiply<T, kRows, Along::span, Along::span, vectors>(
                                  shared, {a, m}, {b, n}, end - begin)
                            : nullptr;
    c += int64_t{m} * op.n + n;
    const auto put = [&]<int width>() {
        constexpr int kPerRow = kTileColumns / width;
        const int column = threadIdx.x % kPerRow * width;
        if (n + column >= op.n) return;
        for (int row = threadIdx.x / kPerRow; row < min(kRows, op.m - m);
             row += kTileThreads / kPerRow) {
            float sum[width] = {}, more[width];
            float* to = c + int64_t{row} * op.n + column;
            if (accumulate) load(sum, to);
            if (any) {
                load(more, tile + row * kTilePitch + column);
#pragma unroll
                for (int j = 0; j < width; ++j) sum[j] += more[j];
            }
            store(to, sum);
        }
    };
    if (vectors && reinterpret_cast<uintptr_t>(c) % kPieceBytes == 0)
        put.template operator()<4>();
    else
        put.template operator()<1>();
}

template <class T>
__global__ void __launch_bounds__(kTileThreads, 2) expert_dweights(const WeightGradients<T> op) {
    extern __shared__ __align__(16) char shared[];
    const int slot = blockIdx.x / (op.tiles[0] + op.tiles[1]);
    const int begin = op.offset[slot], end = op.offset[slot + 1];
    if (begin == end && op.accumulate) return;
    int number = blockIdx.x % (op.tiles[0] + op.tiles[1]);
    const bool later = number >= op.tiles[0];
    if (later) number -= op.tiles[0];
    const WeightGradient<T> gradient = later ? op.of[1] : op.of[0];
    const int column_tiles = ceil_div(gradient.n, kTileColumns);
    const int m = number / column_tiles * kGradientRows<T>;
    const int n = number % column_tiles * kTileColumns;
    float* c = op.dweights + op.expert_offset[slot] + gradient.skip;
    if (op.whole_pieces)
        gradient_tile<T, true>(gradient, c, begin, end, m, n, op.accumulate, shared);
    else
        gradient_tile<T, false>(gradient, c, begin, end, m, n, op.accumulate, shared);
}

template <class T>
class Backward {
public:
    Backward(const ExpertsBackward& op, const Stream& s)
        : op_(op),
          s_(s),
          M_(op.choice.shape[0]),
          R_(static_cast<int>(op.expert_offset.shape[0])),
          D_(static_cast<int>(op.x.shape[1])),
          F_(op.d_expert),
          wide_(static_cast<int>(op.matrices()) * F_),
          maps_(invert_choices(op, s)),
          dhidden_(s.scratch.take<T>(M_ * wide_)),
          active_(s.scratch.take<T>(M_ * F_)),
          whole_pieces_(fits_wide<T>(D_, {op.x.data, op.dy.data}) &&
                        fits_wide<T>(F_, {op.hidden.data, dhidden_, active_})) {}

    void hidden_and_gate() const {
        const DHidden<T> a{.dhidden = dhidden_,
                           .active = active_,
                           .dgate = s_.scratch.take<float>(M_ * ceil_div(F_, kTileColumns)),
                           .dy = data_of<T>(op_.dy),
                           .hidden = data_of<T>(op_.hidden),
                           .gate = data_of<float>(op_.gate),
                           .choice = data_of<int32_t>(op_.choice),
                           .token = maps_.token,
                           .offset = data_of<int32_t>(op_.offset),
                           .weights = weights_of<T>(op_),
                           .skip = int64_t{wide_} * D_,
                           .R = R_,
                           .D = D_,
                           .F = F_,
                           .activation = op_.activation,
                           .whole_pieces = whole_pieces_};
        with_tile_rows<T>(M_, R_, [&]<int rows>() {
            launch_tiles<rows>(expert_dhidden<T, rows>, "expert_dhidden",
                               row_tiles<rows>(M_, R_) * a.column_tiles(), a, s_);
        });
        const int64_t choices = op_.slot.count();
        if (choices == 0) return;
        const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(choices, kThreads));
        sum_dgate<<<blocks, kThreads, 0, s_.stream>>>(data_of<float>(op_.dgate), a.dgate,
                                                      maps_.row_of, choices, a.column_tiles());
        check_launch("sum_dgate");
    }

    void input() const {
        float* dinput = s_.scratch.take<float>(M_ * D_);
        launch_multiply_rows<T, Along::span>({.out = dinput,
                                              .in = dhidden_,
                                              .offset = data_of<int32_t>(op_.offset),
                                              .weights = weights_of<T>(op_),
                                              .skip = 0,
                                              .R = R_,
                                              .depth = wide_,
                                              .columns = D_,
                                              .whole_pieces = whole_pieces_},
                                             M_, s_);
        return_rows({.y = op_.dx,
                     .rows = view(dinput, Shape(M_, D_)),
                     .row_of = maps_.row_of,
                     .gate = nullptr,
                     .K = op_.slot.shape[1]},
                    s_);
    }

    void weights() const {
        constexpr int kRows = kGradientRows<T>;
        const WeightGradient<T> in{.a = dhidden_,
                                   .b = data_of<T>(op_.x),
                                   .a_index = nullptr,
                                   .b_index = maps_.token,
                                   .m = wide_,
                                   .n = D_,
                                   .skip = 0};
        const WeightGradient<T> out{.a = data_of<T>(op_.dy),
                                    .b = active_,
                                    .a_index = maps_.token,
                                    .b_index = nullptr,
                                    .m = D_,
                                    .n = F_,
                                    .skip = int64_t{wide_} * D_};
        const auto tiles = [](const WeightGradient<T>& c) {
            return ceil_div(c.m, kRows) * ceil_div(c.n, kTileColumns);
        };
        const WeightGradients<T> a{.dweights = data_of<float>(op_.dweights),
                                   .expert_offset = data_of<int64_t>(op_.expert_offset),
                                   .offset = data_of<int32_t>(op_.offset),
                                   .of = {in, out},
                                   .tiles = {tiles(in), tiles(out)},
                                   .whole_pieces = whole_pieces_,
                                   .accumulate = op_.accumulate_dweights};
        launch_tiles<kRows>(expert_dweights<T>, "expert_dweights",
                            int64_t{R_ - op_.n_frozen} * (a.tiles[0] + a.tiles[1]), a, s_);
    }

private:
    const ExpertsBackward& op_;
    const Stream& s_;
    int64_t M_;
    int R_, D_, F_, wide_;
    RowMaps maps_;
    T* dhidden_;  // (M, U F)
    T* active_;   // (M, F), gate * a
    bool whole_pieces_;
};

}  // namespace

void CudaBackend::execute(const ExpertsBackward& op, Queue queue) {
    const Stream s = begin(queue);
    with_compute_type(op.x.dtype, [&]<class T>() {
        const Backward<T> backward(op, s);
        backward.hidden_and_gate();
        backward.input();
        if (op.dweights) backward.weights();
    });
}

}  // namespace fomoe
