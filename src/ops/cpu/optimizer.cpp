// AdamW and the sums before it, at the speed of memory.
#include "ops/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/cpu/cpu_backend.h"

namespace fomoe {

void CpuBackend::compute(const AdamW& op) {
    const int64_t P = op.weight.count();
    float* weight = op.weight.as<float>();
    float* m = op.m.as<float>();
    float* v = op.v.as<float>();
    const float* grad = op.grad.as<float>();
    const float scale = *op.grad_scale.as<float>();
    if (!(scale >= 0)) return;
    const float beta1 = op.beta1, beta2 = op.beta2, eps = op.eps;
    const float keep1 = 1.0 - double{beta1}, keep2 = 1.0 - double{beta2};
    const float rate = op.lr / (1.0 - std::pow(double{beta1}, op.step));
    const float correction2 = 1.0 / (1.0 - std::pow(double{beta2}, op.step));
    const float decay = op.lr * op.weight_decay;
#pragma omp parallel for simd num_threads(threads_) schedule(static)
    for (int64_t i = 0; i < P; ++i) {
        const float g = grad[i] * scale;
        const float mean = beta1 * m[i] + keep1 * g;
        const float square = beta2 * v[i] + keep2 * (g * g);
        m[i] = mean;
        v[i] = square;
        weight[i] -= rate * mean / (std::sqrt(square * correction2) + eps) + decay * weight[i];
    }
    if (op.copy) compute(Cast{.y = op.copy, .x = op.weight});
}

void CpuBackend::compute(const Sum& op) {
    const float* x = op.x.as<float>();
    *op.sum.as<double>() += std::accumulate(x, x + op.x.count(), 0.0);
}

// Parts that depend on P alone, added in order.
void CpuBackend::compute(const SumSquares& op) {
    constexpr int kParts = 64;
    const int64_t P = op.x.count(), size = (P + 16 * kParts - 1) / (16 * kParts) * 16;
    const float* x = op.x.as<float>();
    double partial[kParts];
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int part = 0; part < kParts; ++part) {
        const int64_t begin = std::min(part * size, P), end = std::min(begin + size, P);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = begin; i < end; ++i) sum += double{x[i]} * x[i];
        partial[part] = sum;
    }
    double total = 0;
    for (const double sum : partial) total += sum;
    *op.sum.as<double>() += total;
}

void CpuBackend::compute(const ClipScale& op) {
    const double squares = *op.squares.as<double>(), norm = std::sqrt(squares);
    const double loss = *op.loss.as<double>();
    const bool good = std::isfinite(squares) && std::isfinite(loss) && squares <= op.most_squares &&
                      loss <= op.most_loss;
    const double scale = op.clip > 0 && norm > op.clip ? op.clip / norm : 1.0;
    *op.grad_scale.as<float>() = good ? static_cast<float>(scale) : -1.0f;
}

}  // namespace fomoe
