// The results of an evaluation as a table and as JSON.
#pragma once

#include <filesystem>

#include "eval/perplexity.h"

namespace fomoe {

// One object: `pooled` and `domains`, as a model has them in the report's JSON.
std::string json_of(const Evaluation& evaluation);

struct EvaluationReport {
    struct Part {
        std::filesystem::path checkpoint;
        int64_t step = 0;
    };
    Part run;
    std::vector<std::string> groups;
    EvaluationOptions options;
    Evaluations results;
    std::optional<Part> calibrated;
    std::optional<Evaluation> calibrated_model;  // the union's, if it was asked for

    std::string table() const;  // lines
    std::string json() const;   // one line
};

}  // namespace fomoe
