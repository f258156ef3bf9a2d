// fomoe-eval on held-out text: perplexity and bits per byte by domain, the same of two checkpoints
// side by side, and which experts each domain chooses.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "apps/loaded_model.h"
#include "eval/perplexity.h"

namespace fomoe {

struct EvaluateCommand {
    std::vector<std::string> modes{"union", "own"};
    int prefix = 32;
    std::string choose = "loss";
    EvaluationOptions asked;  // follows from them
    bool experts = false;
    std::string compare;  // the path of another checkpoint
};

struct EvaluateOptions {
    CLI::Option* mode;
    std::vector<CLI::Option*> commands;
};
EvaluateOptions add_evaluate_options(CLI::App& app, EvaluateCommand& command);

// Sets `asked`. Throws CLI::ValidationError.
void take_modes(EvaluateCommand& command, const CLI::App& app);
// What there can be of what was asked for. Throws Error(usage).
EvaluationOptions possible(EvaluationOptions asked, const Config& config);
// What can be told before anything is computed. Throws Error.
void check_evaluate(const EvaluateCommand& command, const std::string& path);

// `path` is what was given on the command line: beside a run there may be a calibrated union.
void run_evaluate(const EvaluateCommand& command, const std::string& path,
                  const LoadedCheckpoint& loaded);

}  // namespace fomoe
