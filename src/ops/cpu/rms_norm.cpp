// RMSNorm with the residual sum, each row read once.
#include "ops/rms_norm.h"

#include <algorithm>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/norm_rows.h"

namespace fomoe {
namespace {

// sum = x + residual, rounded in `sum` and as it is in `exact`; returns the sum of its squares.
template <class T>
float add_rows(const T* x, const T* residual, T* sum, float* exact, int64_t D) {
    Vec squares{};
    for_lanes(D, [=, &squares](int64_t d, auto vec) {
        const Vec s = vec.load(x + d) + vec.load(residual + d);
        vec.store(sum + d, s);
        vec.store(exact + d, s);
        squares += s * s;
    });
    return sum_of(squares);
}

template <class T, class Row>
void scale_row(const Row* row, const float* weight, float rstd, T* y, int64_t D) {
    for_lanes(D, [=](int64_t d, auto vec) {
        vec.store(y + d, vec.load(weight + d) * (vec.load(row + d) * rstd));
    });
}

}  // namespace

void CpuBackend::execute(const RmsNorm& op, Queue) {
    constexpr int64_t kRows = 4;  // are summed before the first is scaled, which would wait
    const int64_t N = op.x.shape[0], D = op.x.shape[1], width = whole_tiles(D);
    const float* weight = op.weight.as<float>();
    float* rstd = op.rstd.as<float>();
    float* exact_sums = tile_scratch(threads_ * kRows * width);
    with_element(op.x.dtype, [&]<class T>(const T*) {
        const T* x = op.x.as<T>();
        const T* residual = op.residual ? op.residual.as<T>() : nullptr;
        T* sum = op.sum ? op.sum.as<T>() : nullptr;
        T* y = op.y.as<T>();
        const auto rows = [=](int64_t begin, int64_t end, float* exact) {
            for (int64_t n = begin; n < end; ++n) {
                const int64_t at = n * D;
                const float squares = residual ? add_rows(x + at, residual + at, sum + at,
                                                          exact + (n - begin) * width, D)
                                               : squares_of(x + at, D);
                rstd[n] = rstd_of(squares, D, op.eps);
            }
            for (int64_t n = begin; n < end; ++n) {
                if (residual)
                    scale_row(exact + (n - begin) * width, weight, rstd[n], y + n * D, D);
                else
                    scale_row(x + n * D, weight, rstd[n], y + n * D, D);
            }
        };
#pragma omp parallel for num_threads(threads_)
        for (int t = 0; t < threads_; ++t) {
            const int64_t end = N * (t + 1) / threads_;
            for (int64_t n = N * t / threads_; n < end; n += kRows)
                rows(n, std::min(n + kRows, end), exact_sums + t * kRows * width);
        }
    });
}

// dweight: a sum per thread over its rows, then over the threads in order.
void CpuBackend::execute(const RmsNormBackward& op, Queue) {
    const int64_t N = op.sum.shape[0], D = op.sum.shape[1], width = whole_tiles(D);
    const float* weight = op.weight.as<float>();
    const float* rstd = op.rstd.as<float>();
    float* partial = tile_scratch(threads_ * width);
    std::fill_n(partial, threads_ * width, 0.0f);
    with_element(op.sum.dtype, [&]<class T>(const T*) {
        const T* dy = op.dy.as<T>();
        const T* sum = op.sum.as<T>();
        const T* dsum = op.dsum ? op.dsum.as<T>() : nullptr;
        T* dx = op.dx.as<T>();
#pragma omp parallel for num_threads(threads_)
        for (int t = 0; t < threads_; ++t) {
            for (int64_t n = N * t / threads_; n < N * (t + 1) / threads_; ++n) {
                const int64_t at = n * D;
                norm_row_backward(dy + at, sum + at, weight, rstd[n], dsum ? dsum + at : nullptr,
                                  dx + at, partial + t * width, D);
            }
        }
    });
    float* dweight = op.dweight.as<float>();
    for (int t = 0; t < threads_; ++t) {
        for (int64_t d = 0; d < D; ++d) dweight[d] += partial[t * width + d];
    }
}

}  // namespace fomoe
