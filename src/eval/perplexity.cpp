#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>

namespace fomoe {
namespace {

// Sequences [begin, end) of a source, filled up to `n` with sequences that have no targets: the
// ranks run in step, whatever their shares.
Batch padded(const ValidLoader& data, int source, Range sequences, int64_t n, int64_t seq_len) {
    Batch batch = sequences.size() > 0 ? data.get(source, sequences) : Batch{};
    const int64_t N = n * seq_len;
    for (int64_t i = batch.tokens.size(); i < N; ++i)
        batch.positions.push_back(static_cast<int32_t>(i % seq_len));
    batch.tokens.resize(N, 0);
    batch.targets.resize(N, -1);
    return batch;
}

Score score_domain(UnionModel& model, const ValidLoader& data, int source,
                   const Tokenizer& tokenizer) {
    const int64_t m = model.sequences(), T = model.config().data.seq_len;
    const int64_t n = data.n_sequences(source);
    Communicator& ranks = model.ranks();
    const Range own = cut(n, ranks.size(), ranks.rank());
    const int64_t most = (n + ranks.size() - 1) / ranks.size();
    std::vector<float> loss(m * T);
    double sums[3] = {0, 0, 0};
    for (int64_t first = 0; first < most; first += m) {
        const Range part{std::min(own.begin + first, own.end),
                         std::min(own.begin + first + m, own.end)};
        Batch batch = padded(data, source, part, m, T);
        if (model.config().data.document_mask) batch.begin.resize(m * T, 0);
        sums[0] += model.transformer().evaluate({.token = batch.tokens,
                                                 .target = batch.targets,
                                                 .position = batch.positions,
                                                 .begin = batch.begin},
                                                loss);
        for (int32_t target : batch.targets) {
            if (target < 0) continue;
            sums[1] += 1;
            sums[2] += tokenizer.byte_count(target);
        }
    }
    ranks.all_reduce_sum(view(sums, Shape(3)));
    return {.loss_sum = sums[0], .tokens = sums[1], .bytes = sums[2]};
}

}  // namespace

double Score::perplexity() const { return std::exp(loss()); }
double Score::bits_per_byte() const { return loss_sum / std::log(2.0) / bytes; }
void Score::add(const Score& other) {
    loss_sum += other.loss_sum;
    tokens += other.tokens;
    bytes += other.bytes;
}

Evaluation evaluate(UnionModel& model, const ValidLoader& data, const Tokenizer& tokenizer) {
    Evaluation result;
    for (int source = 0; source < data.n_sources(); ++source) {
        const Score score = score_domain(model, data, source, tokenizer);
        result.domains[data.name(source)] = score;
        result.pooled.add(score);
    }
    return result;
}

}  // namespace fomoe
