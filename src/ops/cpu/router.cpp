// The router: scores, choice and statistics of each token, and the way back to the logits.
#include "ops/router.h"

#include <algorithm>
#include <cmath>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/tile.h"

namespace fomoe {
namespace {

constexpr int64_t kBlock = 64;  // tokens whose statistics are summed in f32

// probability = softmax(logits); returns logsumexp(logits).
float softmax(const float* logits, float* probability, int64_t E) {
    float top = logits[0];
    for (int64_t e = 1; e < E; ++e) top = logits[e] > top ? logits[e] : top;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < E; ++e) {
        probability[e] = fast_exp(logits[e] - top);
        sum += probability[e];
    }
    const float share = 1.0f / sum;
#pragma omp simd
    for (int64_t e = 0; e < E; ++e) probability[e] *= share;
    return top + std::log(sum);
}

void sigmoid(const float* logits, float* score, int64_t E) {
#pragma omp simd
    for (int64_t e = 0; e < E; ++e) score[e] = fast_sigmoid(logits[e]);
}

float sum_of(const float* x, int64_t E) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < E; ++e) sum += x[e];
    return sum;
}

float dot(const float* x, const float* y, int64_t E) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < E; ++e) sum += x[e] * y[e];
    return sum;
}

// NaN counts as the largest, so that it is chosen and seen.
bool greater(float a, float b) { return a > b || (a != a && b == b); }

// The K experts with the largest keys, in falling order, the lower id first among equals.
void choose(const float* key, int64_t E, int64_t K, int32_t* chosen) {
    int64_t found = 0;
    for (int64_t e = 0; e < E; ++e) {
        if (found == K && !greater(key[e], key[chosen[K - 1]])) continue;
        int64_t at = found < K ? found++ : K - 1;
        for (; at > 0 && greater(key[e], key[chosen[at - 1]]); --at) chosen[at] = chosen[at - 1];
        chosen[at] = static_cast<int32_t>(e);
    }
}

}  // namespace

// Statistics: a sum per block of a sequence's tokens, then over its blocks in order. The scratch
// holds 2 E + 1 numbers a block.
void CpuBackend::execute(const Router& op, Queue) {
    const int64_t N = op.logits.shape[0], E = op.logits.shape[1], K = op.gate.shape[1];
    const int64_t B = op.count.shape[0], T = N / B, blocks = (T + kBlock - 1) / kBlock;
    const int64_t width = whole_tiles(E), size = 2 * width + kTileUnit;
    const bool soft = op.score == RouterScore::softmax;
    const int32_t* resident = op.resident.as<int32_t>();
    const int32_t* target = op.target.as<int32_t>();
    const float* bias = op.bias ? op.bias.as<float>() : nullptr;
    float* partial = tile_scratch(B * blocks * size + threads_ * 3 * width);
    float* rows = partial + B * blocks * size;
    const int64_t tasks = B * blocks;

#pragma omp parallel for num_threads(threads_)
    for (int t = 0; t < threads_; ++t) {
        float* probability = rows + t * 3 * width;
        float* key = probability + width;
        float* score = soft ? probability : key + width;
        for (int64_t task = tasks * t / threads_; task < tasks * (t + 1) / threads_; ++task) {
            float* count = partial + task * size;
            float* mass = count + width;
            float* z = mass + width;
            std::fill_n(count, size, 0.0f);
            const int64_t begin = task % blocks * kBlock, end = std::min(begin + kBlock, T);
            for (int64_t n = task / blocks * T + begin; n < task / blocks * T + end; ++n) {
                const float* logits = op.logits.as<float>() + n * E;
                float* gate = op.gate.as<float>() + n * K;
                int32_t* expert = op.expert.as<int32_t>() + n * K;
                int32_t* slot = op.slot.as<int32_t>() + n * K;
                const float lse = softmax(logits, probability, E);
                if (!soft) sigmoid(logits, score, E);
                for (int64_t e = 0; e < E; ++e) key[e] = score[e] + (bias ? bias[e] : 0.0f);
                choose(key, E, K, expert);
                float chosen = 0;
                for (int64_t k = 0; k < K; ++k) chosen += score[expert[k]];
                const float scale = op.normalize ? op.scale / chosen : op.scale;
                for (int64_t k = 0; k < K; ++k) {
                    gate[k] = scale * score[expert[k]];
                    slot[k] = resident[expert[k]] < 0 ? -1 : resident[expert[k]];
                }
                if (target[n] < 0) continue;
                const float share = soft ? 1.0f : 1.0f / sum_of(score, E);
                for (int64_t k = 0; k < K; ++k) count[expert[k]] += 1.0f;
                for (int64_t e = 0; e < E; ++e) mass[e] += share * score[e];
                *z += lse * lse;
            }
        }
    }

    for (int64_t b = 0; b < B; ++b) {
        const float* of_sequence = partial + b * blocks * size;
        const auto total = [&](int64_t at) {
            double sum = 0;
            for (int64_t i = 0; i < blocks; ++i) sum += of_sequence[i * size + at];
            return static_cast<float>(sum);
        };
        for (int64_t e = 0; e < E; ++e) {
            op.count.as<float>()[b * E + e] = total(e);
            op.mass.as<float>()[b * E + e] = total(width + e);
        }
        op.z.as<float>()[b] = total(2 * width);
    }
}

void CpuBackend::execute(const RouterBackward& op, Queue) {
    const int64_t N = op.logits.shape[0], E = op.logits.shape[1], K = op.expert.shape[1];
    const int64_t T = N / op.dmass.shape[0], width = whole_tiles(E);
    const bool soft = op.score == RouterScore::softmax;
    float* rows = tile_scratch(threads_ * 3 * width);

#pragma omp parallel for num_threads(threads_)
    for (int t = 0; t < threads_; ++t) {
        float* probability = rows + t * 3 * width;
        float* dscore = probability + width;
        float* score = soft ? probability : dscore + width;
        for (int64_t n = N * t / threads_; n < N * (t + 1) / threads_; ++n) {
            const float* logits = op.logits.as<float>() + n * E;
            const float* dmass = op.dmass.as<float>() + n / T * E;
            const float* dgate = op.dgate.as<float>() + n * K;
            const int32_t* expert = op.expert.as<int32_t>() + n * K;
            const int32_t* slot = op.slot.as<int32_t>() + n * K;
            float* dlogits = op.dlogits.as<float>() + n * E;
            const bool valid = op.target.as<int32_t>()[n] >= 0;
            const float lse = softmax(logits, probability, E);
            if (!soft) sigmoid(logits, score, E);

            // The balancing loss sees p = score / total; of a softmax the total is 1.
            if (!valid) {
                std::fill_n(dscore, E, 0.0f);
            } else if (soft) {
                std::copy_n(dmass, E, dscore);
            } else {
                const float share = 1.0f / sum_of(score, E);
                const float mean = share * dot(dmass, score, E);
                for (int64_t e = 0; e < E; ++e) dscore[e] = share * (dmass[e] - mean);
            }
            float chosen = 0, weighted = 0;
            for (int64_t k = 0; k < K; ++k) {
                chosen += score[expert[k]];
                if (slot[k] >= 0) weighted += dgate[k] * score[expert[k]];
            }
            for (int64_t k = 0; k < K; ++k) {
                const float dg = slot[k] >= 0 ? dgate[k] : 0.0f;
                dscore[expert[k]] +=
                    op.scale * (op.normalize ? (dg - weighted / chosen) / chosen : dg);
            }
            const float z = valid ? 2.0f * op.dz * lse : 0.0f;
            if (soft) {
                const float mean = dot(dscore, score, E);
#pragma omp simd
                for (int64_t e = 0; e < E; ++e) {
                    dlogits[e] = score[e] * (dscore[e] - mean) + z * probability[e];
                }
            } else {
#pragma omp simd
                for (int64_t e = 0; e < E; ++e) {
                    dlogits[e] = dscore[e] * score[e] * (1.0f - score[e]) + z * probability[e];
                }
            }
        }
    }
}

}  // namespace fomoe
