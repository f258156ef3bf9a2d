// Text from the model, token by token.
#pragma once

#include <functional>
#include <string>

#include "data/tokenizer.h"
#include "eval/union_model.h"

namespace fomoe {

struct GenerateOptions {
    int max_tokens = 200;
    double temperature = 0.8;  // 0: always the likeliest token
    double top_p = 0.95;       // the smallest set of likeliest tokens with this mass
    uint64_t seed = 1;
};

// The token that follows logits (V). `draw` picks among the candidates and is uniform in (0, 1).
int sample_token(std::span<const float> logits, const GenerateOptions& options, double draw);

// Continues the prompt until max_tokens or the end of a document, looking back seq_len tokens at
// most. The model must have micro-batches of one sequence. Collective; `write` is called on rank 0
// with each new piece of text. Throws Error(usage) for an empty prompt.
void generate(UnionModel& model, const Tokenizer& tokenizer, const std::string& prompt,
              const GenerateOptions& options, const std::function<void(const std::string&)>& write);

}  // namespace fomoe
