// Attention over a cache: one task per row and head. Few rows meet many keys, so that the time is
// that of reading the cache.
#include <algorithm>
#include <cstring>
#include <limits>

#include "ops/attention.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/tile.h"

namespace fomoe {
namespace {

float dot(const float* a, const float* b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// y (Dh) = softmax(scale q k^T) v over `keys` rows of the cache.
void attend(float* y, const float* query, const float* key, const float* value, int64_t row,
            int64_t keys, int64_t Dh, float scale) {
    float* weight = tile_scratch(keys);
    float top = -std::numeric_limits<float>::infinity(), sum = 0;
    for (int64_t j = 0; j < keys; ++j) {
        weight[j] = scale * dot(query, key + j * row, Dh);
        top = std::max(top, weight[j]);
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < keys; ++j) sum += weight[j] = fast_exp(weight[j] - top);
    std::fill_n(y, Dh, 0.0f);
    for (int64_t j = 0; j < keys; ++j) {
        const float share = weight[j] / sum;
#pragma omp simd
        for (int64_t d = 0; d < Dh; ++d) y[d] += share * value[j * row + d];
    }
}

}  // namespace

void CpuBackend::compute(const CachedAttention& op) {
    const int64_t N = op.qkv.shape[0], T = op.cache.shape[1], Dh = op.head_size();
    const int64_t A = op.heads, KV = op.kv_heads, row = 2 * KV * Dh;
    const int32_t* sequence = op.sequence.as<int32_t>();
    const int32_t* position = op.position.as<int32_t>();
    const float* qkv = op.qkv.as<float>();
    float* cache = op.cache.as<float>();
    const auto place = [&](int64_t n) { return cache + (sequence[n] * T + position[n]) * row; };

    for (int64_t n = 0; n < N; ++n)
        if (sequence[n] >= 0)
            std::memcpy(place(n), qkv + n * (A * Dh + row) + A * Dh, row * sizeof(float));

#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (int64_t task = 0; task < N * A; ++task) {
        const int64_t n = task / A, a = task % A;
        float* y = op.y.as<float>() + task * Dh;
        if (sequence[n] < 0) {
            std::fill_n(y, Dh, 0.0f);
            continue;
        }
        const float* key = cache + sequence[n] * T * row + a / (A / KV) * Dh;
        attend(y, qkv + n * (A * Dh + row) + a * Dh, key, key + KV * Dh, row, position[n] + 1, Dh,
               op.scale);
    }
}

}  // namespace fomoe
