// Attention over a cache: a block takes one row and head, its warps every fourth key; the warps'
// softmaxes are joined at the end.
#include <cmath>

#include "cuda/device.cuh"
#include "ops/attention.h"

namespace fomoe {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kParts = 8;  // elements of a head in a lane, at most

template <class T>
struct Cached {
    T* y;                     // (N, A Dh)
    T* cache;                 // (S, T, 2 KV Dh)
    const T* qkv;             // (N, (A + 2 KV) Dh)
    const int32_t* sequence;  // (N)
    const int32_t* position;  // (N)
    int64_t length;           // T
    int heads, kv_heads, head_size;
    float scale;

    __device__ int64_t row() const { return int64_t{2} * kv_heads * head_size; }
    __device__ const T* qkv_row(int64_t n) const {
        return qkv + n * (int64_t{heads} * head_size + row());
    }
};

// The keys and values of a row to their place.
template <class T>
__global__ void __launch_bounds__(kThreads) keep(const Cached<T> a) {
    const int64_t n = blockIdx.x, row = a.row();
    if (a.sequence[n] < 0) return;
    T* place = a.cache + (a.sequence[n] * a.length + a.position[n]) * row;
    const T* from = a.qkv_row(n) + int64_t{a.heads} * a.head_size;
    for (int64_t i = threadIdx.x; i < row; i += kThreads) place[i] = from[i];
}

template <class T>
__global__ void __launch_bounds__(kThreads) attend_cache(const Cached<T> a) {
    __shared__ float tops[kWarps], sums[kWarps], parts[kWarps][kParts * kWarp];
    const int64_t n = blockIdx.x, row = a.row();
    const int head = blockIdx.y, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int64_t at = (n * a.heads + head) * a.head_size;
    if (a.sequence[n] < 0) {
        for (int d = threadIdx.x; d < a.head_size; d += kThreads) a.y[at + d] = from_float<T>(0);
        return;
    }
    const T* keys = a.cache + a.sequence[n] * a.length * row +
                    int64_t{head / (a.heads / a.kv_heads)} * a.head_size;
    const T* values = keys + int64_t{a.kv_heads} * a.head_size;
    const T* from = a.qkv_row(n) + int64_t{head} * a.head_size;

    float query[kParts], y[kParts] = {};
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
        const int d = i * kWarp + lane;
        query[i] = d < a.head_size ? a.scale * to_float(from[d]) : 0;
    }
    float top = -INFINITY, sum = 0;
    for (int64_t j = warp; j <= a.position[n]; j += kWarps) {
        float score = 0;
#pragma unroll
        for (int i = 0; i < kParts; ++i) {
            const int d = i * kWarp + lane;
            if (d < a.head_size) score += query[i] * to_float(keys[j * row + d]);
        }
        score = warp_sum(score);
        const float higher = fmaxf(top, score);
        const float shrink = expf(top - higher), p = expf(score - higher);
        sum = sum * shrink + p;
        top = higher;
#pragma unroll
        for (int i = 0; i < kParts; ++i) {
            const int d = i * kWarp + lane;
            if (d < a.head_size) y[i] = y[i] * shrink + p * to_float(values[j * row + d]);
        }
    }
    if (lane == 0) tops[warp] = top, sums[warp] = sum;
#pragma unroll
    for (int i = 0; i < kParts; ++i) parts[warp][i * kWarp + lane] = y[i];
    __syncthreads();

    // The first warp has seen a key, place 0.
    float highest = tops[0];
    for (int w = 1; w < kWarps; ++w) highest = fmaxf(highest, tops[w]);
    float share[kWarps], total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w] * (share[w] = expf(tops[w] - highest));
    for (int d = threadIdx.x; d < a.head_size; d += kThreads) {
        float out = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) out += share[w] * parts[w][d];
        a.y[at + d] = from_float<T>(out / total);
    }
}

}  // namespace

void CudaBackend::execute(const CachedAttention& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t N = op.qkv.shape[0];
    if (N == 0) return;
    FOMOE_CHECK(op.head_size() <= kParts * kWarp, "cached_attention: heads of ", op.head_size());
    with_compute_type(op.qkv.dtype, [&]<class T>() {
        const Cached<T> a{.y = data_of<T>(op.y),
                          .cache = data_of<T>(op.cache),
                          .qkv = data_of<T>(op.qkv),
                          .sequence = data_of<int32_t>(op.sequence),
                          .position = data_of<int32_t>(op.position),
                          .length = op.cache.shape[1],
                          .heads = op.heads,
                          .kv_heads = op.kv_heads,
                          .head_size = static_cast<int>(op.head_size()),
                          .scale = op.scale};
        keep<T><<<N, kThreads, 0, s.stream>>>(a);
        check_launch("keep");
        attend_cache<T><<<dim3(N, op.heads), kThreads, 0, s.stream>>>(a);
        check_launch("attend_cache");
    });
}

}  // namespace fomoe
