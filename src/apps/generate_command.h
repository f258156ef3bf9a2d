// fomoe-eval --generate and --prompt-tokens: prompts continued by the union, or by the own model of
// a group.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "apps/loaded_model.h"
#include "eval/generate.h"

namespace fomoe {

struct GenerateCommand {
    std::vector<std::string> prompts;
    std::string prompt_tokens;  // a file of ids
    std::string group;          // whose own model; empty: the union
    GenerateOptions options;

    bool asked() const { return !prompts.empty() || !prompt_tokens.empty(); }
};

// Returns those that are commands.
std::vector<CLI::Option*> add_generate_options(CLI::App& app, GenerateCommand& command);

// Throws CLI::ValidationError for options without the command that they belong to.
void check_lone_options(const GenerateCommand& command, const CLI::App& app);
// What can be told before anything is computed; the config is the checkpoint's. Throws
// Error(usage).
void check_generate(const GenerateCommand& command, const Config& config);
void run_generate(const GenerateCommand& command, const LoadedCheckpoint& loaded);

}  // namespace fomoe
