// Rows go through in chunks. Each thread owns a share of the vocabulary, cut into tiles: it turns
// its logits into exponentials against the tile's maximum, and once all threads know the row's sum,
// into gradients. So every logit costs one exponential, and no two threads write the same row of
// dweight. A tile is transposed, (words, rows): then neither weight nor the gradient of the logits
// has to be turned.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/lanes.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/simd.h"
#include "ops/scratch.h"

namespace fomoe {
namespace {

constexpr int64_t kTile = 480;                      // words
constexpr int64_t kLargestChunk = 256;              // rows
constexpr int64_t kChunkLogits = int64_t{1} << 23;  // that exist at a time

// The sizes of chunks and tiles, and of the memory they need.
struct Plan {
    int64_t V, chunk, tiles;  // as many tiles for each thread
    int64_t logits;           // of a tile for each thread
    int64_t shares, sums, log_sums, partial_dx;

    Plan(int64_t N, int64_t D, int64_t V, DType dtype, bool gradients, int threads) : V(V) {
        const int64_t rows = gradients ? kChunkLogits / V / 16 * 16 : kLargestChunk;
        chunk = std::min(N, std::clamp<int64_t>(rows, 32, kLargestChunk));
        tiles = ((V + kTile - 1) / kTile + threads - 1) / threads * threads;
        logits = Pieces::padded(chunk * ((V + tiles - 1) / tiles)) * threads;
        shares = gradients ? Pieces::floats(chunk * V, dtype) : 0;
        sums = chunk * tiles;
        log_sums = 2 * chunk * threads;
        partial_dx = gradients ? chunk * D * threads : 0;
    }
    int64_t floats() const {
        return logits + Pieces::padded(shares) + 2 * Pieces::padded(sums) +
               Pieces::padded(log_sums) + Pieces::padded(chunk) + Pieces::padded(partial_dx);
    }
    int64_t first_word(int64_t tile) const { return V * tile / tiles; }
};

// e^(z - maximum) of the logits z (words, rows); e may be z. The maximum and the sum
// of each row.
template <class T>
void exponentials(const float* z, T* e, int64_t words, int64_t rows, float* maximum, float* sum) {
    std::fill(maximum, maximum + rows, -std::numeric_limits<float>::infinity());
    std::fill(sum, sum + rows, 0.0f);
    for (int64_t v = 0; v < words; ++v) {
        const float* word = z + v * rows;
#pragma omp simd
        for (int64_t i = 0; i < rows; ++i) maximum[i] = word[i] > maximum[i] ? word[i] : maximum[i];
    }
    for (int64_t v = 0; v < words; ++v)
        for_lanes(rows, [=](int64_t i, auto vec) {
            const Vec value = exp(vec.load(z + v * rows + i) - vec.load(maximum + i));
            vec.store(sum + i, vec.load(sum + i) + value);
            vec.store(e + v * rows + i, value);
        });
}

// Of one row, from its maxima and sums by tile, `stride` apart.
float log_sum(const float* maxima, const float* sums, int64_t tiles, int64_t stride) {
    float maximum = maxima[0];
    for (int64_t i = 1; i < tiles; ++i) maximum = std::max(maximum, maxima[i * stride]);
    double sum = 0.0;
    for (int64_t i = 0; i < tiles; ++i)
        sum += double(sums[i * stride]) * fast_exp(maxima[i * stride] - maximum);
    return maximum + static_cast<float>(std::log(sum));
}

// e (words, rows) times the factor of the row.
template <class T>
void scale_rows(T* e, int64_t words, int64_t rows, const float* factor) {
    for (int64_t v = 0; v < words; ++v)
        for_lanes(rows, [=](int64_t i, auto vec) {
            T* at = e + v * rows + i;
            vec.store(at, vec.load(at) * vec.load(factor + i));
        });
}

}  // namespace

int64_t cpu_cross_entropy_scratch(int64_t N, int64_t D, int64_t V, DType dtype, int threads) {
    return Plan(N, D, V, dtype, true, threads).floats() * int64_t{sizeof(float)};
}

template <class T>
void CpuBackend::cross_entropy(const LinearCrossEntropy& op) {
    const int64_t N = op.x.shape[0], D = op.x.shape[1];
    const bool gradients = bool(op.dx);
    const Plan plan(N, D, op.weight.shape[0], op.x.dtype, gradients, threads_);
    const int64_t chunk = plan.chunk, tiles = plan.tiles;
    Pieces pieces(workspace_.reserve(plan.floats()), plan.floats());
    float* logits = pieces.take(plan.logits);
    T* shares = pieces.take<T>(gradients ? chunk * plan.V : 0);  // of the words, before scaling
    float* maxima = pieces.take(plan.sums);
    float* sums = pieces.take(plan.sums);
    float* all_log_sums = pieces.take(plan.log_sums);
    float* target_logit = pieces.take(chunk);
    float* partial_dx = pieces.take(plan.partial_dx);

    const T* x = op.x.as<T>();
    const int32_t* all_targets = op.target.as<int32_t>();
    float* loss = op.loss.as<float>();
    float* dweight = gradients ? op.dweight.as<float>() : nullptr;
    T* all_dx = gradients ? op.dx.as<T>() : nullptr;

#pragma omp parallel num_threads(threads_)
    {
        const int t = omp_get_thread_num();
        const int64_t first_tile = tiles / threads_ * t;
        const int64_t last_tile = first_tile + tiles / threads_;
        float* log_sums = all_log_sums + t * 2 * chunk;
        float* factor = log_sums + chunk;
        float* z = logits + plan.logits / threads_ * t;
        for (int64_t begin = 0; begin < N; begin += chunk) {
            const int64_t rows = std::min(chunk, N - begin);
            const T* input = x + begin * D;
            const int32_t* target = all_targets + begin;
            for (int64_t tile = first_tile; tile < last_tile; ++tile) {
                const int64_t word = plan.first_word(tile);
                const int64_t words = plan.first_word(tile + 1) - word;
                multiply({.c = z,
                          .stride = rows,
                          .a = {op.weight, word * D, D},
                          .b = {input, D, true},
                          .m = words,
                          .n = rows,
                          .k = D});
                for (int64_t i = 0; i < rows; ++i)
                    if (target[i] >= word && target[i] < word + words)
                        target_logit[i] = z[(target[i] - word) * rows + i];
                float *maximum = maxima + tile * chunk, *sum = sums + tile * chunk;
                if (gradients)
                    exponentials(z, shares + word * rows, words, rows, maximum, sum);
                else
                    exponentials(z, z, words, rows, maximum, sum);
            }
#pragma omp barrier
            for (int64_t i = 0; i < rows; ++i)
                log_sums[i] = log_sum(maxima + i, sums + i, tiles, chunk);
            for (int64_t i = rows * t / threads_; i < rows * (t + 1) / threads_; ++i)
                loss[begin + i] = target[i] < 0 ? 0.0f : log_sums[i] - target_logit[i];
            if (gradients) {
                float* dx = partial_dx + t * chunk * D;
                for (int64_t tile = first_tile; tile < last_tile; ++tile) {
                    const int64_t word = plan.first_word(tile);
                    const int64_t words = plan.first_word(tile + 1) - word;
                    T* dz = shares + word * rows;
                    for (int64_t i = 0; i < rows; ++i)
                        factor[i] =
                            target[i] < 0
                                ? 0.0f
                                : op.scale * fast_exp(maxima[tile * chunk + i] - log_sums[i]);
                    scale_rows(dz, words, rows, factor);
                    for (int64_t i = 0; i < rows; ++i)
                        if (target[i] >= word && target[i] < word + words)
                            dz[(target[i] - word) * rows + i] = rounded<T>(
                                op.scale * (fast_exp(target_logit[i] - log_sums[i]) - 1.0f));
                    multiply({.c = dx,
                              .stride = D,
                              .a = {dz, rows, true},
                              .b = {op.weight, word * D, D},
                              .m = rows,
                              .n = D,
                              .k = words,
                              .accumulate = tile > first_tile});
                    multiply({.c = dweight + word * D,
                              .stride = D,
                              .a = {dz, rows},
                              .b = {input, D},
                              .m = words,
                              .n = D,
                              .k = rows,
                              .accumulate = true});
                }
#pragma omp barrier
                const int64_t from = rows * t / threads_ * D, to = rows * (t + 1) / threads_ * D;
                for (int other = 1; other < threads_; ++other) {
                    const float* part = partial_dx + other * chunk * D;
#pragma omp simd
                    for (int64_t j = from; j < to; ++j) partial_dx[j] += part[j];
                }
                T* sum = all_dx + begin * D;
#pragma omp simd
                for (int64_t j = from; j < to; ++j) sum[j] = rounded<T>(partial_dx[j]);
            }
#pragma omp barrier
        }
    }
}

void CpuBackend::execute(const LinearCrossEntropy& op, Queue) {
    with_element(op.x.dtype, [&]<class T>(const T*) { cross_entropy<T>(op); });
}

}  // namespace fomoe
