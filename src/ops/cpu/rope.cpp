// Norm of queries and keys, and rotation, row by row, each rounded once.
#include "ops/rope.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <vector>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/norm_rows.h"

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

// Heads of a row that are normalised together, if there is a norm.
struct Run {
    int64_t begin, heads;
    bool keys;
};

template <class AnyRope>
std::vector<Run> runs_of(const AnyRope& op) {
    const int64_t Dh = op.head_size();
    if (op.mode() == QkNormMode::full)
        return {{0, op.heads, false}, {op.heads * Dh, op.kv_heads, true}};
    std::vector<Run> runs;
    for (int64_t a = 0; a < op.heads + op.kv_heads; ++a) runs.push_back({a * Dh, 1, a >= op.heads});
    return runs;
}

// Rotates the first 2 * pairs of `size` elements and copies the others; y may be x.
// value(x, d, vec) is the vector from element d on, as it goes in.
template <class From, class To, class Value>
void rotate(const From* x, To* y, int64_t size, int pairs, const float* sine, const float* cosine,
            Value value) {
    for_lanes(pairs, [=](int64_t i, auto vec) {
        const Vec a = value(x, i, vec), b = value(x, i + pairs, vec);
        const Vec s = vec.load(sine + i), c = vec.load(cosine + i);
        vec.store(y + i, a * c - b * s);
        vec.store(y + i + pairs, b * c + a * s);
    });
    const int64_t rest = 2 * pairs;
    for_lanes(size - rest,
              [=](int64_t d, auto vec) { vec.store(y + rest + d, value(x, rest + d, vec)); });
}

const auto plainly = [](const auto* x, int64_t d, auto vec) { return vec.load(x + d); };

}  // namespace

void CpuBackend::execute(const Rope& op, Queue) {
    const int64_t N = op.x.shape[0], width = op.x.shape[1], Dh = op.head_size();
    const int64_t rotated = (op.heads + op.kv_heads) * Dh;
    const int pairs = op.rotary_size / 2;
    const int64_t table = whole_tiles(pairs);
    const double* frequency = frequencies(op.rotary_size, op.theta);
    const int32_t* position = op.position.as<int32_t>();
    const std::vector<Run> runs = runs_of(op);
    const bool norm = op.mode() != QkNormMode::none;
    const float* q_weight = norm ? op.q_weight.as<float>() : nullptr;
    const float* k_weight = norm ? op.k_weight.as<float>() : nullptr;
    float* rstd = norm ? op.rstd.as<float>() : nullptr;
    float* scratch = tile_scratch(threads_ * 2 * table);
    with_element(op.x.dtype, [&]<class T>(const T*) {
        const auto row = [&](const T* x, T* y, float* rstd, const float* sine,
                             const float* cosine) {
            // All sums first, so that no head waits for its own.
            for (size_t r = 0; norm && r < runs.size(); ++r) {
                const int64_t size = runs[r].heads * Dh;
                rstd[r] = rstd_of(squares_of(x + runs[r].begin, size), size, op.eps);
            }
            for (const Run& run : runs) {
                const T* from = x + run.begin;
                T* to = y + run.begin;
                if (!norm) {
                    rotate(from, to, Dh, pairs, sine, cosine, plainly);
                    continue;
                }
                const int64_t size = run.heads * Dh;
                const float scale = *rstd++;
                const float* weight = run.keys ? k_weight : q_weight;
                for (int64_t at = 0; at < size; at += Dh) {
                    rotate(from + at, to + at, Dh, pairs, sine, cosine,
                           [=](const T* x, int64_t d, auto vec) {
                               return vec.load(weight + at + d) * (vec.load(x + d) * scale);
                           });
                }
            }
            if (x != y) std::copy(x + rotated, x + width, y + rotated);
        };
#pragma omp parallel for num_threads(threads_)
        for (int t = 0; t < threads_; ++t) {
            float* sine = scratch + t * 2 * table;
            float* cosine = sine + table;
            for (int64_t n = N * t / threads_; n < N * (t + 1) / threads_; ++n) {
                sine_and_cosine(frequency, pairs, position[n], sine, cosine);
                row(op.x.as<T>() + n * width, op.qkv.as<T>() + n * width,
                    norm ? rstd + n * std::ssize(runs) : nullptr, sine, cosine);
            }
        }
    });
}

// Weight gradients: a sum per thread over its rows, then over the threads in order.
void CpuBackend::execute(const RopeBackward& op, Queue) {
    const int64_t N = op.dqkv.shape[0], width = op.dqkv.shape[1], Dh = op.head_size();
    const int64_t rotated = (op.heads + op.kv_heads) * Dh;
    const int pairs = op.rotary_size / 2;
    const int64_t table = whole_tiles(pairs);
    const double* frequency = frequencies(op.rotary_size, op.theta);
    const int32_t* position = op.position.as<int32_t>();
    const std::vector<Run> runs = runs_of(op);
    const bool norm = op.mode() != QkNormMode::none;
    const float* q_weight = norm ? op.q_weight.as<float>() : nullptr;
    const float* k_weight = norm ? op.k_weight.as<float>() : nullptr;
    const int64_t q_size = norm ? op.q_weight.count() : 0, k_size = norm ? op.k_weight.count() : 0;
    const int64_t weights = whole_tiles(q_size + k_size);
    const int64_t size = weights + 2 * table + whole_tiles(rotated);
    float* scratch = tile_scratch(threads_ * size);
    with_element(op.dqkv.dtype, [&]<class T>(const T*) {
        const auto row = [&](const T* dy, const T* x, const float* rstd, T* dx, float* turned,
                             float* dweights, const float* sine, const float* cosine) {
            for (const Run& run : runs) {
                if (!norm) {
                    rotate(dy + run.begin, dx + run.begin, Dh, pairs, sine, cosine, plainly);
                    continue;
                }
                const int64_t size = run.heads * Dh;
                for (int64_t at = 0; at < size; at += Dh)
                    rotate(dy + run.begin + at, turned + at, Dh, pairs, sine, cosine, plainly);
                norm_row_backward(turned, x + run.begin, run.keys ? k_weight : q_weight, *rstd++,
                                  static_cast<const T*>(nullptr), dx + run.begin,
                                  dweights + (run.keys ? q_size : 0), size);
            }
            if (dx != dy) std::copy(dy + rotated, dy + width, dx + rotated);
        };
#pragma omp parallel for num_threads(threads_)
        for (int t = 0; t < threads_; ++t) {
            float* dweights = scratch + t * size;
            float* sine = dweights + weights;
            float* cosine = sine + table;
            float* turned = cosine + table;
            std::fill_n(dweights, weights, 0.0f);
            for (int64_t n = N * t / threads_; n < N * (t + 1) / threads_; ++n) {
                // The other way round.
                sine_and_cosine(frequency, pairs, -position[n], sine, cosine);
                row(op.dqkv.as<T>() + n * width, norm ? op.x.as<T>() + n * width : nullptr,
                    norm ? op.rstd.as<float>() + n * std::ssize(runs) : nullptr,
                    op.dx.as<T>() + n * width, turned, dweights, sine, cosine);
            }
        }
    });
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
