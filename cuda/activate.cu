// The nonlinearity of an MLP, a stretch of a row to a warp.
#include "cuda/activation.cuh"
#include "cuda/rows.cuh"
#include "ops/activate.h"

namespace fomoe {
namespace {

constexpr int kThreads = 256;
constexpr int kVectors = 2;  // a lane takes of a row

template <class T>
struct Rows {
    T* y;             // (N, F)
    const T* hidden;  // (N, F), gated (N, 2 F)
    T* dhidden;       // as hidden; may be hidden
    const T* dy;      // (N, F)
    int64_t N, F;
    int64_t stretches;  // of a row
};

// Calls body(row, column) for the vectors of this lane.
template <int width, class T, class Body>
__device__ __forceinline__ void each_vector(const Rows<T>& a, Body body) {
    const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
    const int64_t n = warp / a.stretches;
    if (n >= a.N) return;
    const int64_t begin = (warp - n * a.stretches) * kWarp * kVectors + threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        const int64_t f = (begin + i * kWarp) * width;
        if (f < a.F) body(n, f);
    }
}

template <class T, int width, class Function, bool gated>
__global__ void __launch_bounds__(kThreads) activate(const Rows<T> a) {
    each_vector<width>(a, [&](int64_t n, int64_t f) {
        const T* hidden = a.hidden + n * a.F * (gated ? 2 : 1) + f;
        float x[width];
        load(x, hidden);
#pragma unroll
        for (int j = 0; j < width; ++j) x[j] = Function::value(x[j]);
        if constexpr (gated) {
            float up[width];
            load(up, hidden + a.F);
#pragma unroll
            for (int j = 0; j < width; ++j) x[j] *= up[j];
        }
        store(a.y + n * a.F + f, x);
    });
}

template <class T, int width, class Function, bool gated>
__global__ void __launch_bounds__(kThreads) activate_backward(const Rows<T> a) {
    each_vector<width>(a, [&](int64_t n, int64_t f) {
        const int64_t at = n * a.F * (gated ? 2 : 1) + f;
        float x[width], dy[width];
        load(x, a.hidden + at);
        load(dy, a.dy + n * a.F + f);
        if constexpr (gated) {
            float up[width];
            load(up, a.hidden + at + a.F);
#pragma unroll
            for (int j = 0; j < width; ++j) {
                const Slope slope = Function::slope(x[j]);
                x[j] = dy[j] * up[j] * slope.derivative;
                up[j] = dy[j] * slope.value;
            }
            store(a.dhidden + at + a.F, up);
        } else {
#pragma unroll
            for (int j = 0; j < width; ++j) x[j] = dy[j] * Function::slope(x[j]).derivative;
        }
        store(a.dhidden + at, x);
    });
}

template <int width>
int64_t stretches_of(int64_t F) {
    return ceil_div<int64_t>(F, kWarp * kVectors * width);
}

template <class T>
unsigned blocks_of(const Rows<T>& a) {
    return static_cast<unsigned>(ceil_div<int64_t>(a.N * a.stretches, kThreads / kWarp));
}

}  // namespace

void CudaBackend::execute(const Activate& op, Queue queue) {
    const Stream s = begin(queue);
    if (op.y.count() == 0) return;
    with_compute_type(op.y.dtype, [&]<class T>() {
        Rows<T> a{.y = data_of<T>(op.y),
                  .hidden = data_of<T>(op.hidden),
                  .N = op.y.shape[0],
                  .F = op.y.shape[1]};
        with_width<T>(fits_wide<T>(a.F, {a.y, a.hidden}), [&]<int width>() {
            a.stretches = stretches_of<width>(a.F);
            with_activation(op.activation, [&]<class Function, bool gated>() {
                activate<T, width, Function, gated><<<blocks_of(a), kThreads, 0, s.stream>>>(a);
            });
        });
    });
    check_launch("activate");
}

void CudaBackend::execute(const ActivateBackward& op, Queue queue) {
    const Stream s = begin(queue);
    if (op.dy.count() == 0) return;
    with_compute_type(op.dy.dtype, [&]<class T>() {
        Rows<T> a{.hidden = data_of<T>(op.hidden),
                  .dhidden = data_of<T>(op.dhidden),
                  .dy = data_of<T>(op.dy),
                  .N = op.dy.shape[0],
                  .F = op.dy.shape[1]};
        with_width<T>(fits_wide<T>(a.F, {a.hidden, a.dhidden, a.dy}), [&]<int width>() {
            a.stretches = stretches_of<width>(a.F);
            with_activation(op.activation, [&]<class Function, bool gated>() {
                activate_backward<T, width, Function, gated>
                    <<<blocks_of(a), kThreads, 0, s.stream>>>(a);
            });
        });
    });
    check_launch("activate_backward");
}

}  // namespace fomoe
