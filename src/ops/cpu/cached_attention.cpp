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

constexpr int64_t kTogether = 4;  // rows of the cache that are read at a time

constexpr int64_t kAhead = 32;  // and how long before they are asked for, as they lie far apart

// to[i] = q . row i of kTogether rows.
template <class T>
void dots(float* to, const float* q, const T* const* rows, int64_t n) {
    const T *row0 = rows[0], *row1 = rows[1], *row2 = rows[2], *row3 = rows[3];
    float sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
    for (int64_t d = 0; d < n; ++d) {
        sum0 += q[d] * to_f32(row0[d]);
        sum1 += q[d] * to_f32(row1[d]);
        sum2 += q[d] * to_f32(row2[d]);
        sum3 += q[d] * to_f32(row3[d]);
    }
    to[0] = sum0, to[1] = sum1, to[2] = sum2, to[3] = sum3;
}

// out += the sum of kTogether rows times their weights.
template <class T>
void add_rows(float* out, const float* weights, const T* const* rows, int64_t n) {
    const T *row0 = rows[0], *row1 = rows[1], *row2 = rows[2], *row3 = rows[3];
    const float weight0 = weights[0], weight1 = weights[1], weight2 = weights[2],
                weight3 = weights[3];
#pragma omp simd
    for (int64_t d = 0; d < n; ++d)
        out[d] += (weight0 * to_f32(row0[d]) + weight1 * to_f32(row1[d])) +
                  (weight2 * to_f32(row2[d]) + weight3 * to_f32(row3[d]));
}

// y (Dh) = softmax(scale q k^T) v over `keys` rows of the cache.
template <class T>
void attend(T* y, const T* query, const T* key, const T* value, int64_t row, int64_t keys,
            int64_t Dh, float scale) {
    // Rows behind the end repeat the last one, with no weight.
    const auto for_each_rows = [&](const T* from, auto body) {
        for (int64_t j = 0; j < keys; j += kTogether) {
            const T* rows[kTogether];
            for (int64_t i = 0; i < kTogether; ++i) {
                rows[i] = from + std::min(j + i, keys - 1) * row;
                const T* ahead = from + std::min(j + i + kAhead, keys - 1) * row;
                for (int64_t d = 0; d < Dh; d += 64 / sizeof(T))
                    __builtin_prefetch(ahead + d, 0, 2);
            }
            body(j, rows);
        }
    };
    const int64_t padded = whole_tiles(keys);
    float *weight = tile_scratch(padded + 2 * Dh), *q = weight + padded, *out = q + Dh;
    for (int64_t d = 0; d < Dh; ++d) q[d] = scale * to_f32(query[d]);
    for_each_rows(key, [&](int64_t j, const T* const* rows) { dots(weight + j, q, rows, Dh); });
    float top = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < keys; ++j) top = std::max(top, weight[j]);
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < keys; ++j) sum += weight[j] = fast_exp(weight[j] - top);
    std::fill(weight + keys, weight + padded, 0.0f);
    std::fill_n(out, Dh, 0.0f);
    for_each_rows(value,
                  [&](int64_t j, const T* const* rows) { add_rows(out, weight + j, rows, Dh); });
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
