// AdamW and the sums before it, at the speed of memory.
#include "ops/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/lanes.h"

namespace fomoe {

namespace {

// Elements of a cache line, and how far ahead lines are fetched: more than the processor does by
// itself.
constexpr int64_t kLine = 16, kAhead = 512;

// Calls body(begin, end) for a part of [0, n) per thread, cut at cache lines.
template <class Body>
void for_parts(int64_t n, int threads, Body body) {
    const int64_t blocks = (n + 63) / 64;
    if (blocks < 256) return body(int64_t{0}, n);  // not worth a second thread
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; ++t)
        body(blocks * t / threads * 64, std::min(n, blocks * (t + 1) / threads * 64));
}

void round_part(const float* x, bf16* y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = to_bf16(x[i]);
}

void widen_part(const bf16* x, float* y, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = to_f32(x[i]);
}

}  // namespace

void CpuBackend::execute(const AdamW& op, Queue) {
    float* weight = op.weight.as<float>();
    float* m = op.m.as<float>();
    float* v = op.v.as<float>();
    bf16* copy = op.copy ? op.copy.as<bf16>() : nullptr;
    const float* grad = op.grad.as<float>();
    const float scale = *op.grad_scale.as<float>();
    if (!(scale >= 0)) return;
    const float beta1 = op.beta1, beta2 = op.beta2, eps = op.eps;
    const float keep1 = 1.0 - double{beta1}, keep2 = 1.0 - double{beta2};
    const float rate = op.lr / (1.0 - std::pow(double{beta1}, op.step));
    const float correction2 = 1.0 / (1.0 - std::pow(double{beta2}, op.step));
    const float decay = op.lr * op.weight_decay;
    const auto update = [=](int64_t begin, int64_t n) {
        for_lanes(n, [=](int64_t at, auto vec) {
            const int64_t i = begin + at;
            __builtin_prefetch(grad + i + kAhead);
            for (const float* changed : {weight, m, v}) __builtin_prefetch(changed + i + kAhead, 1);
            const Vec g = vec.load(grad + i) * scale, old = vec.load(weight + i);
            const Vec mean = beta1 * vec.load(m + i) + keep1 * g;
            const Vec square = beta2 * vec.load(v + i) + keep2 * (g * g);
            vec.store(m + i, mean);
            vec.store(v + i, square);
            const Vec step = rate * mean / (sqrt(square * correction2) + eps);
            vec.store(weight + i, old - (step + decay * old));
        });
    };
    constexpr int64_t kPiece = 1024;  // rounded while it is in the L1 cache
    for_parts(op.weight.count(), threads_, [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; at += kPiece) {
            const int64_t n = std::min(kPiece, end - at);
            update(at, n);
            if (copy) round_part(weight + at, copy + at, n);
        }
    });
}

void CpuBackend::execute(const Cast& op, Queue) {
    for_parts(op.x.count(), threads_, [&](int64_t begin, int64_t end) {
        if (op.x.dtype == DType::bf16)
            widen_part(op.x.as<bf16>() + begin, op.y.as<float>() + begin, end - begin);
        else
            round_part(op.x.as<float>() + begin, op.y.as<bf16>() + begin, end - begin);
    });
}

void CpuBackend::execute(const Sum& op, Queue) {
    const float* x = op.x.as<float>();
    *op.sum.as<double>() += std::accumulate(x, x + op.x.count(), 0.0);
}

// Parts that depend on P alone, added in order.
void CpuBackend::execute(const SumSquares& op, Queue) {
    constexpr int kParts = 64;
    const int64_t P = op.x.count(), size = (P + 16 * kParts - 1) / (16 * kParts) * 16;
    const float* x = op.x.as<float>();
    double partial[kParts];
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int part = 0; part < kParts; ++part) {
        const int64_t begin = std::min(part * size, P), end = std::min(begin + size, P);
        double sums[kLine] = {};
        int64_t at = begin;
        for (; at + kLine <= end; at += kLine) {
            __builtin_prefetch(x + at + kAhead);
#pragma omp simd
            for (int64_t i = 0; i < kLine; ++i) sums[i] += double{x[at + i]} * x[at + i];
        }
        for (; at < end; ++at) sums[0] += double{x[at]} * x[at];
        partial[part] = std::accumulate(sums, sums + kLine, 0.0);
    }
    double total = 0;
    for (const double sum : partial) total += sum;
    *op.sum.as<double>() += total;
}

void CpuBackend::execute(const ClipScale& op, Queue) {
    const double squares = *op.squares.as<double>(), norm = std::sqrt(squares);
    const double loss = *op.loss.as<double>();
    const bool good = std::isfinite(squares) && std::isfinite(loss) && squares <= op.most_squares &&
                      loss <= op.most_loss;
    const double scale = op.clip > 0 && norm > op.clip ? op.clip / norm : 1.0;
    *op.grad_scale.as<float>() = good ? static_cast<float>(scale) : -1.0f;
}

}  // namespace fomoe
