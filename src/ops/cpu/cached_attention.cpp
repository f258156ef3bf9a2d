// Attention over a cache: one task per row and head. Few rows meet many keys, so that the time is
// that of reading the cache.
#include <algorithm>
#include <cstring>
#include <limits>

#include "ops/attention.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/elements.h"
#include "ops/cpu/tile.h"

namespace fomoe {
namespace {

template <class T>
float dot(const float* a, const T* b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += a[i] * to_f32(b[i]);
    return sum;
}

// y (Dh) = softmax(scale q k^T) v over `keys` rows of the cache.
template <class T>
void attend(T* y, const T* query, const T* key, const T* value, int64_t row, int64_t keys,
            int64_t Dh, float scale) {
    float *weight = tile_scratch(keys + 2 * whole_tiles(Dh)), *q = weight + keys, *out = q + Dh;
    for (int64_t d = 0; d < Dh; ++d) q[d] = scale * to_f32(query[d]);
    float top = -std::numeric_limits<float>::infinity(), sum = 0;
    for (int64_t j = 0; j < keys; ++j) {
        weight[j] = dot(q, key + j * row, Dh);
        top = std::max(top, weight[j]);
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < keys; ++j) sum += weight[j] = fast_exp(weight[j] - top);
    std::fill_n(out, Dh, 0.0f);
    for (int64_t j = 0; j < keys; ++j) {
        const float share = weight[j];
#pragma omp simd
        for (int64_t d = 0; d < Dh; ++d) out[d] += share * to_f32(value[j * row + d]);
    }
    for (int64_t d = 0; d < Dh; ++d) y[d] = rounded<T>(out[d] / sum);
}

template <class T>
void attend_all(const CachedAttention& op, int threads) {
    const int64_t N = op.qkv.shape[0], length = op.cache.shape[1], Dh = op.head_size();
    const int64_t A = op.heads, KV = op.kv_heads, row = 2 * KV * Dh;
    const int32_t* sequence = op.sequence.as<int32_t>();
    const int32_t* position = op.position.as<int32_t>();
    const T* qkv = op.qkv.as<T>();
    T* cache = op.cache.as<T>();

    for (int64_t n = 0; n < N; ++n)
        if (sequence[n] >= 0)
            std::memcpy(cache + (sequence[n] * length + position[n]) * row,
                        qkv + n * (A * Dh + row) + A * Dh, row * sizeof(T));

#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < N * A; ++task) {
        const int64_t n = task / A, a = task % A;
        T* y = op.y.as<T>() + task * Dh;
        if (sequence[n] < 0) {
            std::fill_n(y, Dh, T{});
            continue;
        }
        const T* key = cache + sequence[n] * length * row + a / (A / KV) * Dh;
        attend(y, qkv + n * (A * Dh + row) + a * Dh, key, key + KV * Dh, row, position[n] + 1, Dh,
               op.scale);
    }
}

}  // namespace

void CpuBackend::execute(const CachedAttention& op, Queue) {
    with_element(op.qkv.dtype, [&]<class T>(const T*) { attend_all<T>(op, threads_); });
}

}  // namespace fomoe
