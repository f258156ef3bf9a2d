// The router: scores, choice and statistics of each token, and the way back to the logits.
#include "ops/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/tile.h"

namespace fomoe {
namespace {

constexpr int64_t kBlock = 64;  // tokens whose statistics are summed in f32

// The logsumexp of some logits in two parts, so that a difference of two of them is exact.
struct LogSum {
    float top, sum;
    float value() const { return top + std::log(sum); }
    float minus(const LogSum& other) const { return top - other.top + std::log(sum / other.sum); }
};

// probability = softmax(logits).
LogSum softmax(const float* logits, float* probability, int64_t E) {
    float top = logits[0];
#pragma omp simd reduction(max : top)
    for (int64_t e = 0; e < E; ++e) top = logits[e] > top ? logits[e] : top;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < E; ++e) {
        probability[e] = fast_exp(logits[e] - top);
        sum += probability[e];
    }
    const float share = 1.0f / sum;
#pragma omp simd
    for (int64_t e = 0; e < E; ++e) probability[e] *= share;
    return {top, sum};
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
bool greater(float a, float b) { return (a > b) | ((a != a) & (b == b)); }

// Of the first kTileUnit.
bool any_greater(const float* key, float than) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (int i = 0; i < kTileUnit; ++i) any |= greater(key[i], than);
    return any != 0;
}

// The K experts with the largest keys, in falling order, the lower id first among equals.
void choose(const float* key, int64_t E, int64_t K, int32_t* chosen) {
    int64_t found = 0;
    for (int64_t e = 0; e < E; ++e) {
        // Most are less than those that were found: whole blocks of them, when there are many.
        if (found == K && e % kTileUnit == 0)
            while (e + kTileUnit <= E && !any_greater(key + e, key[chosen[K - 1]])) e += kTileUnit;
        if (e == E) break;
        if (found == K && !greater(key[e], key[chosen[K - 1]])) continue;
        int64_t at = found < K ? found++ : K - 1;
        for (; at > 0 && greater(key[e], key[chosen[at - 1]]); --at) chosen[at] = chosen[at - 1];
        chosen[at] = static_cast<int32_t>(e);
    }
}

// The experts of a group, and those that a token may choose.
struct Experts {
    std::vector<int32_t> resident, scored;  // ids, ascending
    bool some_absent;                       // and not all

    Experts(const int32_t* slot, int64_t E, AbsentChoices absent) {
        for (int32_t e = 0; e < E; ++e) {
            if (slot[e] >= 0) resident.push_back(e);
            if (slot[e] >= 0 || absent != AbsentChoices::reroute) scored.push_back(e);
        }
        some_absent = !resident.empty() && std::ssize(resident) < E;
    }
};

// x itself when the ids are all of them, else the elements with these ids, in `to`.
const float* gather(const float* x, int64_t E, const std::vector<int32_t>& id, float* to) {
    if (std::ssize(id) == E) return x;
    for (size_t i = 0; i < id.size(); ++i) to[i] = x[id[i]];
    return to;
}

// gate = scale * weight * score for a choice with a resident expert. The weight follows from S, the
// sum of a token's chosen scores, and P, that of those with a resident expert.
struct GateWeight {
    float weight, log_by_S, log_by_P;  // and the derivatives of its logarithm
    bool absent_too;                   // absent choices have it as well
};

template <class AnyRouter>
GateWeight gate_weight(const AnyRouter& op, float S, float P, bool any_absent) {
    const float plain = op.normalize ? 1.0f / S : 1.0f, plain_by_S = op.normalize ? -plain : 0.0f;
    if (op.absent != AbsentChoices::renormalize || !any_absent)
        return {plain, plain_by_S, 0.0f, true};
    if (S >= op.max_renormalize * P) return {op.max_renormalize * plain, plain_by_S, 0.0f, false};
    const float share = 1.0f / P;
    if (op.normalize) return {share, 0.0f, -share, false};
    return {S * share, 1.0f / S, -share, false};
}

// What multiplies every gate.
template <class AnyRouter>
float whole_scale(const AnyRouter& op) {
    return op.layer_scale ? op.scale * op.layer_scale.template as<float>()[0] : op.scale;
}

}  // namespace

// Statistics: a sum per block of a sequence's tokens, then over its blocks in order. The scratch
// holds 2 E + 2 numbers a block. Rows of scores hold the scored experts only.
void CpuBackend::execute(const Router& op, Queue) {
    const int64_t N = op.logits.shape[0], E = op.logits.shape[1], K = op.gate.shape[1];
    const int64_t B = op.count.shape[0], T = N / B, blocks = (T + kBlock - 1) / kBlock;
    const int64_t width = whole_tiles(E), size = 2 * width + kTileUnit;
    const bool soft = op.score == RouterScore::softmax;
    const bool reroute = op.absent == AbsentChoices::reroute;
    const float scale = whole_scale(op);
    const int32_t* resident = op.resident.as<int32_t>();
    const int32_t* target = op.target.as<int32_t>();
    const Experts experts(resident, E, op.absent);
    const int64_t scored = std::ssize(experts.scored);
    FOMOE_CHECK(K <= scored, op.name, ": top_k ", K, " of ", scored, " resident experts");
    std::vector<float> bias(scored, 0.0f);
    for (int64_t i = 0; op.bias && i < scored; ++i)
        bias[i] = op.bias.as<float>()[experts.scored[i]];
    float* partial = tile_scratch(B * blocks * size + threads_ * 4 * width);
    float* rows = partial + B * blocks * size;
    const int64_t tasks = B * blocks;

#pragma omp parallel for num_threads(threads_)
    for (int t = 0; t < threads_; ++t) {
        float* probability = rows + t * 4 * width;
        float* key = probability + width;
        float* own_score = key + width;
        float* gathered = own_score + width;
        float* score = soft ? probability : own_score;
        for (int64_t task = tasks * t / threads_; task < tasks * (t + 1) / threads_; ++task) {
            float* count = partial + task * size;
            float* mass = count + width;
            float* z = mass + width;
            float* affinity = z + 1;
            std::fill_n(count, size, 0.0f);
            const int64_t begin = task % blocks * kBlock, end = std::min(begin + kBlock, T);
            for (int64_t n = task / blocks * T + begin; n < task / blocks * T + end; ++n) {
                const float* all_logits = op.logits.as<float>() + n * E;
                float* gate = op.gate.as<float>() + n * K;
                int32_t* expert = op.expert.as<int32_t>() + n * K;
                int32_t* slot = op.slot.as<int32_t>() + n * K;
                const bool valid = target[n] >= 0;

                // Of all experts where residents are scored, else of the residents. key is free
                // yet.
                LogSum other{};
                if (valid && experts.some_absent && reroute) other = softmax(all_logits, key, E);
                if (valid && experts.some_absent && !reroute)
                    other = softmax(gather(all_logits, E, experts.resident, gathered), key,
                                    std::ssize(experts.resident));
                const float* logits = gather(all_logits, E, experts.scored, gathered);
                const LogSum log_sum = softmax(logits, probability, scored);
                if (!soft) sigmoid(logits, score, scored);
                for (int64_t i = 0; i < scored; ++i) key[i] = score[i] + bias[i];
                choose(key, scored, K, expert);

                float S = 0, P = 0;
                bool any_absent = false;
                for (int64_t k = 0; k < K; ++k) {
                    const int32_t chosen = expert[k];
                    gate[k] = score[chosen];
                    if (valid) count[chosen] += 1.0f;
                    expert[k] = experts.scored[chosen];
                    slot[k] = std::max(resident[expert[k]], -1);
                    S += gate[k];
                    if (slot[k] >= 0) P += gate[k];
                    any_absent = any_absent || slot[k] < 0;
                }
                const GateWeight by = gate_weight(op, S, P, any_absent);
                for (int64_t k = 0; k < K; ++k)
                    gate[k] *= slot[k] >= 0 || by.absent_too ? scale * by.weight : 0.0f;
                if (!valid) continue;
                const float share = soft ? 1.0f : 1.0f / sum_of(score, scored);
                for (int64_t i = 0; i < scored; ++i) mass[i] += share * score[i];
                *z += log_sum.value() * log_sum.value();
                if (experts.some_absent)
                    *affinity += reroute ? other.minus(log_sum) : log_sum.minus(other);
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
        float* count = op.count.as<float>() + b * E;
        float* mass = op.mass.as<float>() + b * E;
        std::fill_n(count, E, 0.0f);
        std::fill_n(mass, E, 0.0f);
        for (int64_t i = 0; i < scored; ++i) {
            count[experts.scored[i]] = total(i);
            mass[experts.scored[i]] = total(width + i);
        }
        op.z.as<float>()[b] = total(2 * width);
        op.affinity.as<float>()[b] = total(2 * width + 1);
    }
}

void CpuBackend::execute(const RouterBackward& op, Queue) {
    const int64_t N = op.logits.shape[0], E = op.logits.shape[1], K = op.expert.shape[1];
    const int64_t T = N / op.dmass.shape[0], width = whole_tiles(E);
    const bool soft = op.score == RouterScore::softmax;
    const Experts experts(op.resident.as<int32_t>(), E, op.absent);
    const int64_t scored = std::ssize(experts.scored);
    std::vector<int32_t> place(E, 0);  // of an expert among the scored
    for (int64_t i = 0; i < scored; ++i) place[experts.scored[i]] = static_cast<int32_t>(i);
    const bool affinity = op.daffinity != 0 && experts.some_absent;
    const float scale = whole_scale(op);
    std::vector<double> by_layer_scale(op.dlayer_scale ? N : 0);  // token by token
    float* rows = tile_scratch(threads_ * 5 * width);

#pragma omp parallel for num_threads(threads_)
    for (int t = 0; t < threads_; ++t) {
        float* probability = rows + t * 5 * width;
        float* dscore = probability + width;
        float* own_score = dscore + width;
        float* gathered = own_score + width;
        float* gathered_dmass = gathered + width;
        float* score = soft ? probability : own_score;
        for (int64_t n = N * t / threads_; n < N * (t + 1) / threads_; ++n) {
            const float* all_logits = op.logits.as<float>() + n * E;
            const float* dgate = op.dgate.as<float>() + n * K;
            const int32_t* expert = op.expert.as<int32_t>() + n * K;
            const int32_t* slot = op.slot.as<int32_t>() + n * K;
            float* dlogits = op.dlogits.as<float>() + n * E;
            const bool valid = op.target.as<int32_t>()[n] >= 0;
            const float* logits = gather(all_logits, E, experts.scored, gathered);
            const LogSum log_sum = softmax(logits, probability, scored);
            if (!soft) sigmoid(logits, score, scored);

            // The balancing loss sees p = score / total; of a softmax the total is 1.
            const float* dmass =
                gather(op.dmass.as<float>() + n / T * E, E, experts.scored, gathered_dmass);
            if (!valid) {
                std::fill_n(dscore, scored, 0.0f);
            } else if (soft) {
                std::copy_n(dmass, scored, dscore);
            } else {
                const float share = 1.0f / sum_of(score, scored);
                const float mean = share * dot(dmass, score, scored);
                for (int64_t i = 0; i < scored; ++i) dscore[i] = share * (dmass[i] - mean);
            }
            float S = 0, P = 0, weighted = 0;
            bool any_absent = false;
            for (int64_t k = 0; k < K; ++k) {
                const float s = score[place[expert[k]]];
                S += s;
                any_absent = any_absent || slot[k] < 0;
                if (slot[k] < 0) continue;
                P += s;
                weighted += dgate[k] * s;
            }
            const GateWeight by = gate_weight(op, S, P, any_absent);
            for (int64_t k = 0; k < K; ++k) {
                float d = weighted * by.log_by_S;
                if (slot[k] >= 0) d += dgate[k] + weighted * by.log_by_P;
                dscore[place[expert[k]]] += scale * by.weight * d;
            }
            if (op.dlayer_scale) by_layer_scale[n] = double{op.scale} * by.weight * weighted;
            const float z = valid ? 2.0f * op.dz * log_sum.value() : 0.0f;
            float* to = scored == E ? dlogits : dscore;
            if (soft) {
                const float mean = dot(dscore, score, scored);
#pragma omp simd
                for (int64_t i = 0; i < scored; ++i) {
                    to[i] = score[i] * (dscore[i] - mean) + z * probability[i];
                }
            } else {
#pragma omp simd
                for (int64_t i = 0; i < scored; ++i) {
                    to[i] = dscore[i] * score[i] * (1.0f - score[i]) + z * probability[i];
                }
            }
            if (scored < E) {
                std::fill_n(dlogits, E, 0.0f);
                for (int64_t i = 0; i < scored; ++i) dlogits[experts.scored[i]] = dscore[i];
            }

            // -log(mass) = logsumexp over all - logsumexp over the residents.
            if (!affinity || !valid) continue;
            softmax(all_logits, probability, E);
            for (int64_t e = 0; e < E; ++e) dlogits[e] += op.daffinity * probability[e];
            const int64_t R = std::ssize(experts.resident);
            softmax(gather(all_logits, E, experts.resident, gathered), probability, R);
            for (int64_t i = 0; i < R; ++i)
                dlogits[experts.resident[i]] -= op.daffinity * probability[i];
        }
    }
    if (!op.dlayer_scale) return;
    float& total = op.dlayer_scale.as<float>()[0];
    total = static_cast<float>(
        std::accumulate(by_layer_scale.begin(), by_layer_scale.end(), double{total}));
}

}  // namespace fomoe
