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
    int top_k = 0;             // so many likeliest tokens; 0: all
    double top_p = 0.95;       // of them the smallest set of likeliest tokens with this mass
    uint64_t seed = 1;
    std::vector<std::string> stops;  // text ends before the first of them
    int batch = 8;                   // prompts that are continued at once
};

// The token that follows logits (V). `draw` picks among the candidates and is uniform in (0, 1).
int sample_token(std::span<const float> logits, const GenerateOptions& options, double draw);

enum class GenerationEnd { length, stop, end_of_document };
const char* name_of(GenerationEnd end);

struct Generation {
    std::vector<int32_t> prompt;
    std::vector<int32_t> tokens;  // that were drawn, up to the end of a document
    std::string text;             // what they stand for, up to a stop string
    GenerationEnd end = GenerationEnd::length;
};

struct Generations {
    std::vector<Generation> all;  // by prompt
    int64_t prompt_tokens = 0, new_tokens = 0;
    double prompt_seconds = 0, seconds = 0;  // the latter for the new tokens
    int64_t cache_bytes = 0;
};

// Continues each prompt by the model in use until max_tokens, the end of a document or a stop
// string. What comes of a prompt depends on its place among them and on no other prompt.
// Collective; `write` is called on rank 0 with each new piece of a prompt's text, and `last` when
// it is over. Throws Error(usage) for an empty prompt.
Generations generate(
    UnionModel& model, const Tokenizer& tokenizer, const std::vector<std::vector<int32_t>>& prompts,
    const GenerateOptions& options,
    const std::function<void(size_t prompt, const std::string& text, bool last)>& write);

}  // namespace fomoe
