// Norm of queries and keys, and rotation, row by row.
#include "ops/rope.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <vector>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/tile.h"

namespace fomoe {
namespace {

// theta^(-2 i / size) for the pairs of a head; lives until the calling thread's next rope.
const double* frequencies(int size, double theta) {
    thread_local std::vector<double> values;
    values.resize(size / 2);
    for (int i = 0; i < size / 2; ++i) values[i] = std::pow(theta, -2.0 * i / size);
    return values.data();
}

// The angle is reduced to a quarter turn in f64; the series are good to 1e-7 there.
void sine_and_cosine(const double* frequency, int pairs, int32_t position, float* sine,
                     float* cosine) {
    constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
    constexpr double kQuarter = std::numbers::pi / 2;
#pragma omp simd
    for (int i = 0; i < pairs; ++i) {
        const double angle = position * frequency[i];
        const double shifted = angle * (1 / kQuarter) + kRound;
        const int32_t quarter = static_cast<int32_t>(std::bit_cast<int64_t>(shifted));
        const float r = static_cast<float>(angle - (shifted - kRound) * kQuarter);
        const float r2 = r * r;
        const float s =
            r + r * r2 * (-1.6666654611e-1f + r2 * (8.3321608736e-3f - r2 * 1.9515295891e-4f));
        const float c = 1.0f - 0.5f * r2 +
                        r2 * r2 *
                            (4.166664568298827e-2f +
                             r2 * (-1.388731625493765e-3f + r2 * 2.443315711809948e-5f));
        const bool swapped = quarter & 1;
        sine[i] = ((quarter & 2) ? -1.0f : 1.0f) * (swapped ? c : s);
        cosine[i] = (((quarter + 1) & 2) ? -1.0f : 1.0f) * (swapped ? s : c);
    }
}

// Rotates the first 2 * pairs of `size` elements and copies the others; y may be x.
void rotate(const float* x, float* y, int64_t size, int pairs, const float* sine,
            const float* cosine) {
#pragma omp simd
    for (int i = 0; i < pairs; ++i) {
        const float a = x[i], b = x[i + pairs];
        y[i] = a * cosine[i] - b * sine[i];
        y[i + pairs] = b * cosine[i] + a * sine[i];
    }
    if (x != y) std::copy(x + 2 * pairs, x + size, y + 2 * pairs);
}

// y = weight * x / rms(x); returns 1 / rms.
float normalize(const float* x, const float* weight, float* y, int64_t size, float eps) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < size; ++d) squares += x[d] * x[d];
    const float rstd = 1.0f / std::sqrt(squares / size + eps);
#pragma omp simd
    for (int64_t d = 0; d < size; ++d) y[d] = weight[d] * (x[d] * rstd);
    return rstd;
}

// dx from the gradient dy of the normalised x; adds to dweight. dx may be dy.
void normalize_backward(const float* dy, const float* x, const float* weight, float rstd, float* dx,
                        float* dweight, int64_t size) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t d = 0; d < size; ++d) {
        const float g = dy[d] * x[d] * rstd;
        dweight[d] += g;
        dot += g * weight[d];
    }
    const float along = rstd * rstd * dot / size;
#pragma omp simd
    for (int64_t d = 0; d < size; ++d) dx[d] = rstd * weight[d] * dy[d] - along * x[d];
}

}  // namespace

void CpuBackend::compute(const Rope& op) {
    const int64_t N = op.x.shape[0], Dh = op.head_size(), A = op.heads, KV = op.kv_heads;
    const int64_t width = (A + 2 * KV) * Dh;
    const int pairs = op.rotary_size / 2;
    const int64_t table = whole_tiles(pairs);
    const double* frequency = frequencies(op.rotary_size, op.theta);
    const QkNormMode mode = op.mode();
    float* scratch = tile_scratch(threads_ * 2 * table);
#pragma omp parallel for num_threads(threads_)
    for (int t = 0; t < threads_; ++t) {
        float* sine = scratch + t * 2 * table;
        float* cosine = sine + table;
        for (int64_t n = N * t / threads_; n < N * (t + 1) / threads_; ++n) {
            const float* x = op.x.as<float>() + n * width;
            float* y = op.qkv.as<float>() + n * width;
            sine_and_cosine(frequency, pairs, op.position.as<int32_t>()[n], sine, cosine);
            const float* rows = x;
            if (mode == QkNormMode::full) {
                const float* q_weight = op.q_weight.as<float>();
                const float* k_weight = op.k_weight.as<float>();
                float* rstd = op.rstd.as<float>() + n * 2;
                rstd[0] = normalize(x, q_weight, y, A * Dh, op.eps);
                rstd[1] = normalize(x + A * Dh, k_weight, y + A * Dh, KV * Dh, op.eps);
                rows = y;
            } else if (mode == QkNormMode::head) {
                float* rstd = op.rstd.as<float>() + n * (A + KV);
                for (int64_t a = 0; a < A + KV; ++a) {
                    const ConstTensor& weight = a < A ? op.q_weight : op.k_weight;
                    rstd[a] = normalize(x + a * Dh, weight.as<float>(), y + a * Dh, Dh, op.eps);
                }
                rows = y;
            }
            for (int64_t a = 0; a < A + KV; ++a) {
                rotate(rows + a * Dh, y + a * Dh, Dh, pairs, sine, cosine);
            }
            if (x != y) std::copy(x + (A + KV) * Dh, x + width, y + (A + KV) * Dh);
        }
    }
}

// Weight gradients: a sum per thread over its rows, then over the threads in order.
void CpuBackend::compute(const RopeBackward& op) {
    const int64_t N = op.dqkv.shape[0], Dh = op.head_size(), A = op.heads, KV = op.kv_heads;
    const int64_t width = (A + 2 * KV) * Dh;
    const int pairs = op.rotary_size / 2;
    const int64_t table = whole_tiles(pairs);
    const double* frequency = frequencies(op.rotary_size, op.theta);
    const QkNormMode mode = op.mode();
    const bool norm = mode != QkNormMode::none;
    const int64_t q_size = norm ? op.q_weight.count() : 0, k_size = norm ? op.k_weight.count() : 0;
    const int64_t size = 2 * table + whole_tiles(q_size + k_size);
    float* scratch = tile_scratch(threads_ * size);
    std::fill_n(scratch, threads_ * size, 0.0f);
#pragma omp parallel for num_threads(threads_)
    for (int t = 0; t < threads_; ++t) {
        float* dq_weight = scratch + t * size;
        float* dk_weight = dq_weight + q_size;
        float* sine = dq_weight + size - 2 * table;
        float* cosine = sine + table;
        for (int64_t n = N * t / threads_; n < N * (t + 1) / threads_; ++n) {
            const float* dy = op.dqkv.as<float>() + n * width;
            float* dx = op.dx.as<float>() + n * width;
            // The other way round.
            sine_and_cosine(frequency, pairs, -op.position.as<int32_t>()[n], sine, cosine);
            for (int64_t a = 0; a < A + KV; ++a) {
                rotate(dy + a * Dh, dx + a * Dh, Dh, pairs, sine, cosine);
            }
            if (dx != dy) std::copy(dy + (A + KV) * Dh, dy + width, dx + (A + KV) * Dh);
            if (!norm) continue;
            const float* x = op.x.as<float>() + n * width;
            const float* q_weight = op.q_weight.as<float>();
            const float* k_weight = op.k_weight.as<float>();
            if (mode == QkNormMode::full) {
                const float* rstd = op.rstd.as<float>() + n * 2;
                normalize_backward(dx, x, q_weight, rstd[0], dx, dq_weight, A * Dh);
                normalize_backward(dx + A * Dh, x + A * Dh, k_weight, rstd[1], dx + A * Dh,
                                   dk_weight, KV * Dh);
            } else {
                const float* rstd = op.rstd.as<float>() + n * (A + KV);
                for (int64_t a = 0; a < A + KV; ++a) {
                    normalize_backward(dx + a * Dh, x + a * Dh, a < A ? q_weight : k_weight,
                                       rstd[a], dx + a * Dh, a < A ? dq_weight : dk_weight, Dh);
                }
            }
        }
    }
    if (!norm) return;
    float* dq_weight = op.dq_weight.as<float>();
    float* dk_weight = op.dk_weight.as<float>();
    for (int t = 0; t < threads_; ++t) {
        const float* partial = scratch + t * size;
        for (int64_t d = 0; d < q_size; ++d) dq_weight[d] += partial[d];
        for (int64_t d = 0; d < k_size; ++d) dk_weight[d] += partial[q_size + d];
    }
}

}  // namespace fomoe
