// RMSNorm with the residual sum, each row read once.
#include "ops/rms_norm.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/tile.h"

namespace fomoe {

void CpuBackend::compute(const RmsNorm& op) {
    const int64_t N = op.x.shape[0], D = op.x.shape[1];
    const float* weight = op.weight.as<float>();
#pragma omp parallel for num_threads(threads_)
    for (int64_t n = 0; n < N; ++n) {
        const float* x = op.x.as<float>() + n * D;
        float* y = op.y.as<float>() + n * D;
        const float* row = x;
        float squares = 0;
        if (op.residual) {
            const float* residual = op.residual.as<float>() + n * D;
            float* sum = op.sum.as<float>() + n * D;
            row = sum;
#pragma omp simd reduction(+ : squares)
            for (int64_t d = 0; d < D; ++d) {
                const float s = x[d] + residual[d];
                sum[d] = s;
                squares += s * s;
            }
        } else {
#pragma omp simd reduction(+ : squares)
            for (int64_t d = 0; d < D; ++d) squares += x[d] * x[d];
        }
        const float rstd = 1.0f / std::sqrt(squares / D + op.eps);
        op.rstd.as<float>()[n] = rstd;
#pragma omp simd
        for (int64_t d = 0; d < D; ++d) y[d] = weight[d] * (row[d] * rstd);
    }
}

// dweight: a sum per thread over its rows, then over the threads in order.
void CpuBackend::compute(const RmsNormBackward& op) {
    const int64_t N = op.sum.shape[0], D = op.sum.shape[1], width = whole_tiles(D);
    const float* weight = op.weight.as<float>();
    float* partial = tile_scratch(threads_ * width);
    std::fill_n(partial, threads_ * width, 0.0f);
#pragma omp parallel for num_threads(threads_)
    for (int t = 0; t < threads_; ++t) {
        float* dweight = partial + t * width;
        for (int64_t n = N * t / threads_; n < N * (t + 1) / threads_; ++n) {
            const float* dy = op.dy.as<float>() + n * D;
            const float* sum = op.sum.as<float>() + n * D;
            const float* dsum = op.dsum ? op.dsum.as<float>() + n * D : nullptr;
            float* dx = op.dx.as<float>() + n * D;
            const float rstd = op.rstd.as<float>()[n];
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t d = 0; d < D; ++d) {
                const float g = dy[d] * sum[d] * rstd;
                dweight[d] += g;
                dot += g * weight[d];
            }
            const float along = rstd * rstd * dot / D;
            if (dsum) {
#pragma omp simd
                for (int64_t d = 0; d < D; ++d) {
                    dx[d] = dsum[d] + (rstd * weight[d] * dy[d] - along * sum[d]);
                }
            } else {
#pragma omp simd
                for (int64_t d = 0; d < D; ++d) dx[d] = rstd * weight[d] * dy[d] - along * sum[d];
            }
        }
    }
    float* dweight = op.dweight.as<float>();
    for (int t = 0; t < threads_; ++t) {
        for (int64_t d = 0; d < D; ++d) dweight[d] += partial[t * width + d];
    }
}

}  // namespace fomoe
