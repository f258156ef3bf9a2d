// What both passes of the rotary positions share: the parts of a head, frequencies, angles.
#pragma once

#include <cmath>

#include "cuda/rows.cuh"
#include "ops/rope.h"

namespace fomoe {

constexpr int kRopeThreads = 128;

// A head is cut into items of `width` pairs, then into items of `width` elements that are not
// rotated.
struct HeadParts {
    int heads, kv_heads;  // A, KV
    int head_size;        // Dh
    int pairs;            // rotary_size / 2
    int pair_items, items;
    int lanes;  // the power of 2 of threads that sum over a head together, at most a warp
    int q_weights, k_weights;  // elements
    bool keeps_weights;        // in shared memory

    __host__ __device__ int normed_heads() const { return heads + kv_heads; }
    __host__ __device__ int64_t row_size() const {
        return int64_t{heads + 2 * kv_heads} * head_size;
    }
};

template <class AnyRope>
HeadParts head_parts(const AnyRope& op, int width) {
    HeadParts h{.heads = op.heads,
                .kv_heads = op.kv_heads,
                .head_size = static_cast<int>(op.head_size()),
                .pairs = op.rotary_size / 2,
                .pair_items = op.rotary_size / 2 / width,
                .items = 0,
                .lanes = 1,
                .q_weights = 0,
                .k_weights = 0,
                .keeps_weights = false};
    h.items = h.pair_items + (h.head_size - op.rotary_size) / width;
    while (h.lanes < kWarp && h.lanes < h.items) h.lanes *= 2;
    if (op.mode() == QkNormMode::none) return h;
    constexpr int kMostKept = 8192;
    h.q_weights = static_cast<int>(op.q_weight.count());
    h.k_weights = static_cast<int>(op.k_weight.count());
    h.keeps_weights = h.q_weights + h.k_weights <= kMostKept;
    return h;
}

// Whether pairs and rests of heads are whole numbers of 16 bytes.
template <class T, class AnyRope>
bool rope_fits_wide(const AnyRope& op, std::initializer_list<const void*> data) {
    return op.rotary_size / 2 % kWide<T> == 0 && fits_wide<T>(op.head_size(), data);
}

// A block's shared memory. Tokens take turns with two places, named by 0 and 1.
struct RopeTables {
    double* frequency;  // (pairs), theta^(-2 i / rotary_size)
    float* turns;       // (2, 2, pairs), sine and cosine of a token
    float* of_heads;    // (2, A + KV), of a token
    float* weights;     // of queries, then of keys, where they are kept
    float* sums;        // what lies behind
    int pairs, heads;

    // Of 4, so that what lies behind begins at 16 bytes.
    __host__ __device__ static int whole(int floats) { return ceil_div(floats, 4) * 4; }
    __host__ __device__ static int kept_weights(const HeadParts& h) {
        return h.keeps_weights ? whole(h.q_weights + h.k_weights) : 0;
    }
    static int64_t bytes(const HeadParts& h) {
        const int floats = whole(4 * h.pairs) + whole(2 * h.normed_heads()) + kept_weights(h);
        return whole(2 * h.pairs) * int64_t{sizeof(float)} + floats * int64_t{sizeof(float)};
    }
    __device__ RopeTables(double* memory, const HeadParts& h)
        : frequency(memory), pairs(h.pairs), heads(h.normed_heads()) {
        turns = reinterpret_cast<float*>(frequency) + whole(2 * pairs);
        of_heads = turns + whole(4 * pairs);
        weights = of_heads + whole(2 * heads);
        sums = weights + kept_weights(h);
    }
    __device__ float* sine(int place) const { return turns + place * 2 * pairs; }
    __device__ float* of_head(int place) const { return of_heads + place * heads; }
    __device__ void fill_frequencies(double log2_theta) const {
        for (int i = threadIdx.x; i < pairs; i += kRopeThreads)
            frequency[i] = exp2(-log2_theta * i / pairs);
    }
    // Copies weights and lets them point to the copies, where those are kept.
    template <int width>
    __device__ void keep_weights(const HeadParts& h, const float*& q, const float*& k) const {
        if (!h.keeps_weights) return;
        using Piece = Vec<float, width == 1 ? 1 : 4>;
        constexpr int size = sizeof(Piece) / sizeof(float);
        for (int i = threadIdx.x * size; i < h.q_weights + h.k_weights; i += kRopeThreads * size)
            *reinterpret_cast<Piece*>(weights + i) =
                *reinterpret_cast<const Piece*>(i < h.q_weights ? q + i : k + i - h.q_weights);
        q = weights;
        k = weights + h.q_weights;
    }
    // The angle is reduced to a quarter turn in f64; the series are good to 1e-7 there.
    __device__ void fill_turn(int place, double position) const {
        float *sines = sine(place), *cosines = sines + pairs;
        constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
        constexpr double kQuarter = 1.5707963267948966;
        for (int i = threadIdx.x; i < pairs; i += kRopeThreads) {
            const double angle = position * frequency[i];
            const double shifted = angle * (1 / kQuarter) + kRound;
            const int quarter = static_cast<int>(__double_as_longlong(shifted));
            const float r = static_cast<float>(angle - (shifted - kRound) * kQuarter);
            const float r2 = r * r;
            const float s =
                r + r * r2 * (-1.6666654611e-1f + r2 * (8.3321608736e-3f - r2 * 1.9515295891e-4f));
            const float c = 1.0f - 0.5f * r2 +
                            r2 * r2 *
                                (4.166664568298827e-2f +
                                 r2 * (-1.388731625493765e-3f + r2 * 2.443315711809948e-5f));
            const bool swapped = quarter & 1;
            sines[i] = (quarter & 2 ? -1.0f : 1.0f) * (swapped ? c : s);
            cosines[i] = ((quarter + 1) & 2 ? -1.0f : 1.0f) * (swapped ? s : c);
        }
    }
};

// The sum over the `lanes` threads of a group, for each of them. Call it from whole warps.
__device__ __forceinline__ float group_sum(float x, int lanes) {
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        x += __shfl_xor_sync(kAllLanes, x, distance);
    return x;
}

// The weights of a head's norm.
template <QkNormMode mode>
__device__ __forceinline__ const float* head_weight(const HeadParts& h, int head,
                                                    const float* q_weight, const float* k_weight) {
    const bool is_query = head < h.heads;
    const int of_kind = is_query ? head : head - h.heads;
    return (is_query ? q_weight : k_weight) +
           (mode == QkNormMode::full ? int64_t{of_kind} * h.head_size : 0);
}

// Calls body.template operator()<mode>().
template <class Body>
void with_mode(QkNormMode mode, Body body) {
    switch (mode) {
        case QkNormMode::none:
            return body.template operator()<QkNormMode::none>();
        case QkNormMode::head:
            return body.template operator()<QkNormMode::head>();
        case QkNormMode::full:
            return body.template operator()<QkNormMode::full>();
    }
}

}  // namespace fomoe
