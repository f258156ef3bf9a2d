// The results of an evaluation as a table and as JSON.
#pragma once

#include <filesystem>

#include "eval/compare.h"
#include "eval/perplexity.h"

namespace fomoe {

// With so many digits; "-" for what is not defined, for which JSON has null.
std::string figure(double value, int digits);

// One object: `pooled` and `domains`, as a model has them in the report's JSON.
std::string json_of(const Evaluation& evaluation);

// Where a model comes from.
struct CheckpointPart {
    std::filesystem::path checkpoint;
    int64_t step = 0;
};

struct EvaluationReport {
    CheckpointPart run;
    std::vector<std::string> groups;
    EvaluationOptions options;
    Evaluations results;
    std::optional<CheckpointPart> calibrated;
    std::optional<Evaluation> calibrated_model;  // the union's, if it was asked for

    std::string table() const;  // lines
    std::string json() const;   // one line
};

struct ComparisonReport {
    CheckpointPart first, second;
    Comparison result;

    std::string table() const;
    std::string json() const;
};

}  // namespace fomoe
