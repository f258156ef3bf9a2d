// Rows go through in chunks. Each thread owns a share of the vocabulary, cut into tiles: it turns
// its logits into exponentials against the tile's maximum, and once all threads know the row's sum,
// into gradients. So every logit costs one exponential, and no two threads write the same row of
// dweight. A tile is transposed, (words, rows): then neither weight nor the gradient of the logits
// needs packing.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/simd.h"
#include "ops/scratch.h"

namespace fomoe {
namespace {

constexpr int64_t kTile = 960;                      // words
constexpr int64_t kLargestChunk = 256;              // rows
constexpr int64_t kChunkFloats = int64_t{1} << 23;  // logits that exist at a time

// The sizes of chunks and tiles, and of the memory they need.
struct Plan {
    int64_t V, chunk, tiles;  // as many tiles for each thread
    int64_t logits, sums, log_sums, partial_dx;

    Plan(int64_t N, int64_t D, int64_t V, bool gradients, int threads) : V(V) {
        const int64_t rows = gradients ? kChunkFloats / V / 16 * 16 : kLargestChunk;
        chunk = std::min(N, std::clamp<int64_t>(rows, 32, kLargestChunk));
        tiles = ((V + kTile - 1) / kTile + threads - 1) / threads * threads;
        logits = chunk * (gradients ? V : (V + tiles - 1) / tiles * threads);
        sums = chunk * tiles;
        log_sums = 2 * chunk * threads;
        partial_dx = gradients ? chunk * D * (threads - 1) : 0;
    }
    int64_t floats() const {
        return Pieces::padded(logits) + 2 * Pieces::padded(sums) + Pieces::padded(log_sums) +
               Pieces::padded(chunk) + Pieces::padded(partial_dx);
    }
    int64_t first_word(int64_t tile) const { return V * tile / tiles; }
};

// e^(z - maximum) in place of the logits z (words, rows); the maximum and the sum of each row.
void exponentials(float* z, int64_t words, int64_t rows, float* maximum, float* sum) {
    std::fill(maximum, maximum + rows, -std::numeric_limits<float>::infinity());
    std::fill(sum, sum + rows, 0.0f);
    for (int64_t v = 0; v < words; ++v) {
        const float* word = z + v * rows;
#pragma omp simd
        for (int64_t i = 0; i < rows; ++i) maximum[i] = word[i] > maximum[i] ? word[i] : maximum[i];
    }
    for (int64_t v = 0; v < words; ++v) {
        float* word = z + v * rows;
#pragma omp simd
        for (int64_t i = 0; i < rows; ++i) {
            word[i] = fast_exp(word[i] - maximum[i]);
            sum[i] += word[i];
        }
    }
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

// z (words, rows) *= factor of the row.
void scale_rows(float* z, int64_t words, int64_t rows, const float* factor) {
    for (int64_t v = 0; v < words; ++v) {
        float* word = z + v * rows;
#pragma omp simd
        for (int64_t i = 0; i < rows; ++i) word[i] *= factor[i];
    }
}

}  // namespace

int64_t cpu_cross_entropy_scratch(int64_t N, int64_t D, int64_t V, int threads) {
    return Plan(N, D, V, true, threads).floats() * int64_t{sizeof(float)};
}

void CpuBackend::compute(const LinearCrossEntropy& op) {
    const int64_t N = op.x.shape[0], D = op.x.shape[1];
    const bool gradients = bool(op.dx);
    const Plan plan(N, D, op.weight.shape[0], gradients, threads_);
    const int64_t chunk = plan.chunk, tiles = plan.tiles;
    Pieces pieces(workspace_.reserve(plan.floats()));
    float* logits = pieces.take(plan.logits);
    float* maxima = pieces.take(plan.sums);
    float* sums = pieces.take(plan.sums);
    float* all_log_sums = pieces.take(plan.log_sums);
    float* target_logit = pieces.take(chunk);
    float* partial_dx = pieces.take(plan.partial_dx);

    const float* x = op.x.as<float>();
    const int32_t* all_targets = op.target.as<int32_t>();
    float* loss = op.loss.as<float>();
    float* dweight = gradients ? op.dweight.as<float>() : nullptr;
    float* all_dx = gradients ? op.dx.as<float>() : nullptr;

#pragma omp parallel num_threads(threads_)
    {
        const int t = omp_get_thread_num();
        const int64_t first_tile = tiles / threads_ * t;
        const int64_t last_tile = first_tile + tiles / threads_;
        float* log_sums = all_log_sums + t * 2 * chunk;
        float* factor = log_sums + chunk;
        for (int64_t begin = 0; begin < N; begin += chunk) {
            const int64_t rows = std::min(chunk, N - begin);
            const float* input = x + begin * D;
            const int32_t* target = all_targets + begin;
            // Without gradients a tile is not needed again, and a thread has memory for one.
            const auto tile_logits = [&](int64_t tile) {
                return logits +
                       (gradients ? plan.first_word(tile) * chunk : plan.logits / threads_ * t);
            };
            for (int64_t tile = first_tile; tile < last_tile; ++tile) {
                const int64_t word = plan.first_word(tile);
                const int64_t words = plan.first_word(tile + 1) - word;
                float* z = tile_logits(tile);
                multiply({.c = z,
                          .stride = rows,
                          .a = {op.weight, word * D, D},
                          .b = {input, D, true},
                          .m = words,
                          .n = rows,
                          .k = D,
                          .narrow = narrow_});
                for (int64_t i = 0; i < rows; ++i)
                    if (target[i] >= word && target[i] < word + words)
                        target_logit[i] = z[(target[i] - word) * rows + i];
                exponentials(z, words, rows, maxima + tile * chunk, sums + tile * chunk);
            }
#pragma omp barrier
            for (int64_t i = 0; i < rows; ++i)
                log_sums[i] = log_sum(maxima + i, sums + i, tiles, chunk);
            for (int64_t i = rows * t / threads_; i < rows * (t + 1) / threads_; ++i)
                loss[begin + i] = target[i] < 0 ? 0.0f : log_sums[i] - target_logit[i];
            if (gradients) {
                float* dx = t == 0 ? all_dx + begin * D : partial_dx + (t - 1) * chunk * D;
                for (int64_t tile = first_tile; tile < last_tile; ++tile) {
                    const int64_t word = plan.first_word(tile);
                    const int64_t words = plan.first_word(tile + 1) - word;
                    float* z = tile_logits(tile);
                    for (int64_t i = 0; i < rows; ++i)
                        factor[i] =
                            target[i] < 0
                                ? 0.0f
                                : op.scale * fast_exp(maxima[tile * chunk + i] - log_sums[i]);
                    scale_rows(z, words, rows, factor);
                    for (int64_t i = 0; i < rows; ++i)
                        if (target[i] >= word && target[i] < word + words)
                            z[(target[i] - word) * rows + i] -= op.scale;
                    multiply({.c = dx,
                              .stride = D,
                              .a = {z, rows, true},
                              .b = {op.weight, word * D, D},
                              .m = rows,
                              .n = D,
                              .k = words,
                              .accumulate = tile > first_tile,
                              .narrow = narrow_});
                    multiply({.c = dweight + word * D,
                              .stride = D,
                              .a = {z, rows},
                              .b = {input, D},
                              .m = words,
                              .n = D,
                              .k = rows,
                              .accumulate = true,
                              .narrow = narrow_});
                }
#pragma omp barrier
                const int64_t from = rows * t / threads_ * D, to = rows * (t + 1) / threads_ * D;
                float* sum = all_dx + begin * D;
                for (int other = 1; other < threads_; ++other) {
                    const float* part = partial_dx + (other - 1) * chunk * D;
#pragma omp simd
                    for (int64_t j = from; j < to; ++j) sum[j] += part[j];
                }
            }
#pragma omp barrier
        }
    }
}

}  // namespace fomoe
