// Matmuls that cuBLASLt has no algorithm for, such as bf16 rows at odd addresses.
#include "cuda/device.cuh"
#include "cuda/matmul.h"

namespace fomoe {
namespace {

constexpr int kTile = 64;   // rows and columns of c that a block computes
constexpr int kDepth = 16;  // of a and b that lie in shared memory at a time
// Floats from row to row there: neighbours of a column and of two rows lie in different banks.
constexpr int kPitch = kTile + 2;
constexpr int kPerThread = 4;  // rows and columns of c that a thread computes
constexpr int kThreads = (kTile / kPerThread) * (kTile / kPerThread);

// Element (i, j) lies at i * row + j * column.
template <class T>
struct View {
    T* data;
    int64_t row, column;
};

template <class In, class Out>
struct Problem {
    View<Out> c;
    View<const In> a, b;
    int64_t m, n, k;
    bool accumulate;
};

// tile[d][i] = element (i, d) of a (rows, depth) matrix from (first_row, first_depth) on, 0
// outside. Neighbouring threads read neighbouring addresses.
template <class In>
__device__ void load_tile(float (&tile)[kDepth][kPitch], View<const In> x, int64_t first_row,
                          int64_t rows, int64_t first_depth, int64_t depth) {
    for (int e = threadIdx.x; e < kTile * kDepth; e += kThreads) {
        const bool along_depth = x.column == 1;
        const int i = along_depth ? e / kDepth : e % kTile;
        const int d = along_depth ? e % kDepth : e / kTile;
        const int64_t row = first_row + i, at = first_depth + d;
        tile[d][i] = row < rows && at < depth ? to_float(x.data[row * x.row + at * x.column]) : 0;
    }
}

template <class In, class Out>
__global__ void __launch_bounds__(kThreads) plain_matmul(Problem<In, Out> p) {
    __shared__ float a[kDepth][kPitch], b[kDepth][kPitch];
    const int64_t first_row = int64_t{blockIdx.x} * kTile;
    const int64_t first_column = int64_t{blockIdx.y} * kTile;
    constexpr int kAcross = kTile / kPerThread;
    const int row = threadIdx.x / kAcross, column = threadIdx.x % kAcross;
    float sum[kPerThread][kPerThread] = {};
    for (int64_t depth = 0; depth < p.k; depth += kDepth) {
        load_tile(a, p.a, first_row, p.m, depth, p.k);
        load_tile(b, View<const In>{p.b.data, p.b.column, p.b.row}, first_column, p.n, depth, p.k);
        __syncthreads();
        for (int d = 0; d < kDepth; ++d)
            for (int i = 0; i < kPerThread; ++i)
                for (int j = 0; j < kPerThread; ++j)
                    sum[i][j] += a[d][row + i * kAcross] * b[d][column + j * kAcross];
        __syncthreads();
    }
    for (int i = 0; i < kPerThread; ++i)
        for (int j = 0; j < kPerThread; ++j) {
            const int64_t to_row = first_row + row + i * kAcross;
            const int64_t to_column = first_column + column + j * kAcross;
            if (to_row >= p.m || to_column >= p.n) continue;
            Out& c = p.c.data[to_row * p.c.row + to_column];
            c = from_float<Out>(p.accumulate ? to_float(c) + sum[i][j] : sum[i][j]);
        }
}

template <class T>
View<const T> view(const Matrix& x) {
    return {static_cast<const T*>(x.data), x.transposed ? 1 : x.stride,
            x.transposed ? x.stride : 1};
}

template <class In, class Out>
void launch(cudaStream_t stream, const Matmul& p) {
    const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(p.m, kTile)),
                    static_cast<unsigned>(ceil_div<int64_t>(p.n, kTile)));
    plain_matmul<<<grid, kThreads, 0, stream>>>(Problem<In, Out>{
        .c = {static_cast<Out*>(p.c), p.stride, 1},
        .a = view<In>(p.a),
        .b = view<In>(p.b),
        .m = p.m,
        .n = p.n,
        .k = p.k,
        .accumulate = p.accumulate,
    });
    check_launch("plain_matmul");
}

}  // namespace

void multiply_plainly(cudaStream_t stream, const Matmul& p) {
    if (p.a.dtype == DType::f32)
        launch<float, float>(stream, p);
    else if (p.dtype == DType::f32)
        launch<nv_bf16, float>(stream, p);
    else
        launch<nv_bf16, nv_bf16>(stream, p);
}

}  // namespace fomoe
