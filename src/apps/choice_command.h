// fomoe-eval --tasks: multiple choice.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "apps/loaded_model.h"
#include "eval/choice.h"

namespace fomoe {

struct ChoiceCommand {
    std::vector<std::string> files;
    int64_t limit = 0;

    bool asked() const { return !files.empty(); }
};

// Returns the one that is a command.
CLI::Option* add_choice_options(CLI::App& app, ChoiceCommand& command);

// Throws Error(data), before anything is computed.
std::vector<ChoiceTask> read_tasks(const ChoiceCommand& command);
// Of the union, of the own models, or both.
void run_tasks(const std::vector<ChoiceTask>& tasks, bool union_model, bool own_models,
               const LoadedCheckpoint& loaded);

}  // namespace fomoe
