// Sums over tokens.
#include "eval/score.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fomoe {

namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

// Of sum(x) / sum(y), from n pairs (Cochran, Sampling Techniques, 1977, 6.4).
double ratio_error(double ratio, double n, double xx, double xy, double yy, double y) {
    if (n < 2 || !(y > 0)) return kUndefined;
    const double squares = xx - 2 * ratio * xy + ratio * ratio * yy;
    return std::sqrt(std::max(0.0, squares) * n / (n - 1)) / y;
}

}  // namespace

double Score::perplexity() const { return std::exp(loss()); }
double Score::bits_per_byte() const {
    return bytes > 0 ? loss_sum / std::log(2.0) / bytes : kUndefined;
}
double Score::flops_per_token() const { return tokens > 0 ? flops / computed : kUndefined; }
double Score::loss_error() const {
    return ratio_error(loss(), segments, loss_loss, loss_tokens, tokens_tokens, tokens);
}
double Score::bits_per_byte_error() const {
    return ratio_error(loss_sum / bytes, segments, loss_loss, loss_bytes, bytes_bytes, bytes) /
           std::log(2.0);
}
void Score::add(const Score& other) {
    for (auto sum : sums()) this->*sum += other.*sum;
}
void Score::add_segment(double own_loss, double own_tokens, double own_bytes) {
    if (own_tokens == 0) return;
    add({.loss_sum = own_loss,
         .tokens = own_tokens,
         .bytes = own_bytes,
         .segments = 1,
         .loss_loss = own_loss * own_loss,
         .loss_tokens = own_loss * own_tokens,
         .tokens_tokens = own_tokens * own_tokens,
         .loss_bytes = own_loss * own_bytes,
         .bytes_bytes = own_bytes * own_bytes});
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
    const SegmentLoss own = loss(pass, batch, segment, prefix);
    score.add_segment(own.loss, own.tokens, own.bytes);
    score.flops += cost(pass, segment);
    score.computed += static_cast<double>(segment.size());
}

SegmentLoss Scorer::loss(const Pass& pass, const Batch& batch, Range segment, int prefix) const {
    SegmentLoss sum;
    for (int64_t row = segment.begin + prefix; row < segment.end; ++row) {
        const int32_t target = batch.targets[row];
        if (target < 0) continue;
        sum.loss += pass.loss[row];
        sum.tokens += 1;
        sum.bytes += tokenizer_.knows(target) ? tokenizer_.byte_count(target) : kUndefined;
    }
    return sum;
}

double Scorer::cost(const Pass& pass, Range rows) const {
    double choices = 0;
    for (int64_t row = rows.begin; row < rows.end; ++row) choices += pass.executed[row];
    return flops_.always * static_cast<double>(rows.size()) + flops_.per_choice * choices;
}

}  // namespace fomoe
