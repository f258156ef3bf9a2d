// Sums over tokens.
#include "eval/score.h"

#include <algorithm>
#include <cmath>

namespace fomoe {

double Score::perplexity() const { return std::exp(loss()); }
double Score::bits_per_byte() const { return loss_sum / std::log(2.0) / bytes; }
void Score::add(const Score& other) {
    loss_sum += other.loss_sum;
    tokens += other.tokens;
    bytes += other.bytes;
    flops += other.flops;
    computed += other.computed;
}

void Evaluation::put(const std::string& domain, const Score& score) {
    domains[domain] = score;
    pooled.add(score);
}

Pass forward_pass(Transformer& transformer, const Batch& batch) {
    Pass result{.loss = std::vector<float>(batch.tokens.size()), .executed = {}};
    transformer.evaluate({.token = batch.tokens,
                          .target = batch.targets,
                          .position = batch.positions,
                          .begin = batch.begin},
                         result.loss);
    result.executed = transformer.executed_choices();
    return result;
}

Batch padded_batch(const ValidLoader& data, int source, Range sequences, int64_t n,
                   const Config& config) {
    Batch batch = sequences.size() > 0 ? data.get(source, sequences) : Batch{};
    const int64_t T = config.data.seq_len, N = n * T;
    for (int64_t i = batch.tokens.size(); i < N; ++i)
        batch.positions.push_back(static_cast<int32_t>(i % T));
    batch.tokens.resize(N, 0);
    batch.targets.resize(N, -1);
    if (config.data.document_mask) batch.begin.resize(N, 0);
    return batch;
}

std::vector<Range> runs_of_part(int64_t n, int64_t parts, int64_t part, int64_t size) {
    const Range own = cut(n, parts, part);
    const int64_t most = (n + parts - 1) / parts;
    std::vector<Range> runs;
    for (int64_t first = 0; first < most; first += size)
        runs.push_back(
            {std::min(own.begin + first, own.end), std::min(own.begin + first + size, own.end)});
    return runs;
}

Scorer::Scorer(const ModelConfig& model, int seq_len, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), flops_(forward_flops_per_token(model, seq_len)) {}

void Scorer::add(Score& score, const Pass& pass, const Batch& batch, Range segment,
                 int prefix) const {
    for (int64_t row = segment.begin + prefix; row < segment.end; ++row) {
        const int32_t target = batch.targets[row];
        if (target < 0) continue;
        score.loss_sum += pass.loss[row];
        score.tokens += 1;
        score.bytes += tokenizer_.byte_count(target);
    }
    score.flops += cost(pass, segment);
    score.computed += static_cast<double>(segment.size());
}

double Scorer::cost(const Pass& pass, Range rows) const {
    double choices = 0;
    for (int64_t row = rows.begin; row < rows.end; ++row) choices += pass.executed[row];
    return flops_.always * static_cast<double>(rows.size()) + flops_.per_choice * choices;
}

}  // namespace fomoe
