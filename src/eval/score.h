// Held-out loss and cost of a model by domain, from its forward passes.
#pragma once

#include <array>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "model/flops.h"
#include "model/transformer.h"

namespace fomoe {

struct Score {
    double loss_sum = 0;  // nats
    double tokens = 0;    // that count
    double bytes = 0;     // of the text that they stand for; not a number where one is no known id
    double flops = 0;     // of the forward passes over all tokens of the segments that count,
    double computed = 0;  // and the number of these tokens
    // Over the segments in which tokens count: their number, and sums of products of what each has.
    double segments = 0;
    double loss_loss = 0, loss_tokens = 0, tokens_tokens = 0, loss_bytes = 0, bytes_bytes = 0;

    // Not a number where nothing counts, or, of bytes, where they are not known.
    double loss() const { return loss_sum / tokens; }  // nats per token
    double perplexity() const;
    double bits_per_byte() const;
    double flops_per_token() const;
    // Standard errors, as of ratios of sums over segments that were drawn independently; not a
    // number with fewer than two.
    double loss_error() const;
    double bits_per_byte_error() const;

    void add(const Score& other);
    void add_segment(double loss, double tokens, double bytes);  // nothing where no token counts
    bool lacks_bytes() const { return std::isnan(bytes); }
    // Every member is a sum.
    static constexpr auto sums() {
        return std::array{&Score::loss_sum,   &Score::tokens,      &Score::bytes,
                          &Score::flops,      &Score::computed,    &Score::segments,
                          &Score::loss_loss,  &Score::loss_tokens, &Score::tokens_tokens,
                          &Score::loss_bytes, &Score::bytes_bytes};
    }
};

struct Evaluation {
    std::map<std::string, Score> domains;
    Score pooled;  // all tokens of all domains

    void put(const std::string& domain, const Score& score);  // a domain that is not there yet
};

// What one model makes of a micro-batch, by token.
struct Pass {
    std::vector<float> loss;
    std::vector<int32_t> executed;  // choices
};
Pass forward_pass(Transformer& transformer, const Batch& batch);

// Sequences of a source, filled up to `n` with sequences that have no targets.
Batch padded_batch(const ValidLoader& data, int source, Range sequences, int64_t n,
                   const Config& config);

// The runs of at most `size` sequences that part `part` of `parts` of `n` takes one after the
// other. Every part has as many, so that ranks run in step; some may be shorter, or empty.
std::vector<Range> runs_of_part(int64_t n, int64_t parts, int64_t part, int64_t size);

// Sums over the tokens of a segment that count; bytes as in a Score.
struct SegmentLoss {
    double loss = 0, tokens = 0, bytes = 0;
};

// Adds up what passes are worth.
class Scorer {
public:
    // The tokenizer outlives it.
    Scorer(const ModelConfig& model, int seq_len, const Tokenizer& tokenizer);

    // The loss of the tokens of a segment behind its first `prefix`, and the cost of all of it.
    void add(Score& score, const Pass& pass, const Batch& batch, Range segment, int prefix) const;
    SegmentLoss loss(const Pass& pass, const Batch& batch, Range segment, int prefix) const;
    double cost(const Pass& pass, Range rows) const;  // FLOPs

private:
    const Tokenizer& tokenizer_;
    FlopsPerToken flops_;
};

}  // namespace fomoe
