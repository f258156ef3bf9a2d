// Held-out loss and cost of a model by domain, from its forward passes.
#pragma once

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
    double bytes = 0;     // of the text that the tokens stand for
    double flops = 0;     // of the forward passes over all tokens of the segments that count,
    double computed = 0;  // and the number of these tokens

    double loss() const { return loss_sum / tokens; }  // nats per token
    double perplexity() const;
    double bits_per_byte() const;
    double flops_per_token() const { return flops / computed; }
    void add(const Score& other);
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

// Adds up what passes are worth.
class Scorer {
public:
    // The tokenizer outlives it.
    Scorer(const ModelConfig& model, int seq_len, const Tokenizer& tokenizer);

    // The loss of the tokens of a segment behind its first `prefix`, and the cost of all of it.
    void add(Score& score, const Pass& pass, const Batch& batch, Range segment, int prefix) const;
    double cost(const Pass& pass, Range rows) const;  // FLOPs

private:
    const Tokenizer& tokenizer_;
    FlopsPerToken flops_;
};

}  // namespace fomoe
