// Held-out loss by domain: of the union model, of each group's own model, and with each document
// sent to the own model of one group.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "eval/document.h"
#include "eval/score.h"
#include "eval/union_model.h"

namespace fomoe {

// A segment is the run of one document inside a sequence. Its first `prefix` tokens choose the
// group with `document_model`, and count in no mode; segments that are not longer count nothing. A
// token counts with the loss of the one that follows it.
struct EvaluationOptions {
    bool union_model = true;
    bool own_models = true;
    bool document_model = false;
    int prefix = 0;  // below data.seq_len, at least 1 with document_model
    DocumentChoice choose = DocumentChoice::loss;
};

// What the options did not ask for stays empty.
struct Evaluations {
    std::optional<Evaluation> union_model;
    std::vector<Evaluation> own_models;  // by group
    std::optional<Evaluation> document_model;
    std::map<std::string, std::vector<int64_t>> segments;  // of a domain, by the group they went to

    // Bits per byte of the union less the mean of the own models', pooled.
    double gap_of(const Evaluation& union_model) const;
};

// Collective over the model's ranks, which share the sequences; all get the result. The cost of a
// document is that of all own models on its prefix and of the chosen one behind it (by loss), or of
// the union on its prefix and of the chosen one on all of it (by the router).
Evaluations evaluate(UnionModel& model, const ValidLoader& data, const Tokenizer& tokenizer,
                     const EvaluationOptions& options = {});

// Throws Error(usage) unless the prefix leaves tokens to count; computes nothing.
void check_prefix(const Config& config, const EvaluationOptions& options);

}  // namespace fomoe
