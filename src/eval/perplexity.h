// Held-out loss by domain.
#pragma once

#include <map>
#include <string>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "eval/union_model.h"

namespace fomoe {

struct Score {
    double loss_sum = 0;  // nats
    double tokens = 0;
    double bytes = 0;  // of the text that the tokens stand for

    double loss() const { return loss_sum / tokens; }  // nats per token
    double perplexity() const;
    double bits_per_byte() const;
    void add(const Score& other);
};

struct Evaluation {
    std::map<std::string, Score> domains;
    Score pooled;  // all tokens of all domains
};

// Collective over the model's ranks, which share the sequences; all get the result.
Evaluation evaluate(UnionModel& model, const ValidLoader& data, const Tokenizer& tokenizer);

}  // namespace fomoe
