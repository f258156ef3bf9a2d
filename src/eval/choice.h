// Multiple choice, with the prompts, acc and acc_norm of lm-evaluation-harness: the likeliest of
// the given continuations of a context, by the sum of its tokens' log-probabilities, or by that sum
// for each character.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "eval/union_model.h"

namespace fomoe {

struct Question {
    std::string context;
    std::vector<std::string> choices;  // without the blank before them
    int answer = 0;
};

struct ChoiceTask {
    std::string name;    // of the file
    std::string format;  // hellaswag, arc or piqa, known by the keys of the first line
    std::vector<Question> questions;
};

// A JSON object a line; at most `limit` of them, 0: all. Throws Error(data) that names file and
// line.
ChoiceTask read_choice_task(const std::filesystem::path& file, int64_t limit = 0);

struct ChoiceScore {
    int64_t questions = 0;
    double acc = 0, acc_norm = 0;
    // Standard error of a share of right answers; not a number for fewer than two questions.
    double error_of(double share) const;
};

// The tokens of a context and a continuation, at most seq_len + 1 of them, the first left out.
struct ChoiceTokens {
    std::vector<int32_t> tokens;
    int64_t continuation = 0;  // how many of them, at the end, are judged
};
// A context's blanks at the end belong to the continuation, and without a context it follows the
// end of a document. Throws Error(data) when the continuation is empty or too long.
ChoiceTokens choice_tokens(const Tokenizer& tokenizer, std::string context,
                           std::string continuation, int seq_len);

// Of the model in use. Collective over its ranks, which share the choices; all get the result.
ChoiceScore score_choices(UnionModel& model, const Tokenizer& tokenizer, const ChoiceTask& task);

}  // namespace fomoe
