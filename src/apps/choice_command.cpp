#include "apps/choice_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "checkpoint/model_files.h"
#include "eval/report.h"

namespace fomoe {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const ChoiceScore& score) {
    return {{"questions", score.questions},
            {"acc", score.acc},
            {"acc_stderr", score.error_of(score.acc)},
            {"acc_norm", score.acc_norm},
            {"acc_norm_stderr", score.error_of(score.acc_norm)}};
}

std::string row(const std::string& model, const std::string& task, const ChoiceScore& score) {
    return fmt::format("{:<17} {:<16} {:>9} {:>8.4f} {:>7} {:>9.4f} {:>7}\n", model, task,
                       score.questions, score.acc, figure(score.error_of(score.acc), 4),
                       score.acc_norm, figure(score.error_of(score.acc_norm), 4));
}

}  // namespace

CLI::Option* add_choice_options(CLI::App& app, ChoiceCommand& command) {
    auto* files = app.add_option("--tasks", command.files,
                                 "Multiple choice instead: JSONL files as those of HellaSwag, ARC "
                                 "and PIQA; several with commas")
                      ->delimiter(',')
                      ->allow_extra_args(false);
    app.add_option("--limit", command.limit, "tasks: the first questions of each file; 0: all")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
        ->capture_default_str()
        ->needs(files);
    return files;
}

std::vector<ChoiceTask> read_tasks(const ChoiceCommand& command) {
    std::vector<ChoiceTask> tasks;
    for (const std::string& file : command.files)
        tasks.push_back(read_choice_task(file, command.limit));
    // Files of one name go by their paths.
    for (size_t i = 0; i < tasks.size(); ++i)
        for (size_t j = 0; j < tasks.size(); ++j)
            if (i != j && std::filesystem::path(command.files[i]).stem() ==
                              std::filesystem::path(command.files[j]).stem())
                tasks[i].name = command.files[i];
    return tasks;
}

void run_tasks(const std::vector<ChoiceTask>& tasks, bool union_model, bool own_models,
               const LoadedCheckpoint& loaded) {
    refuse_foreign_tokenizer(loaded.checkpoint.directory() / kModelDirectory, loaded.config);
    const Tokenizer& tokenizer = known_tokenizer(loaded.config.model.tokenizer);
    UnionModel model = loaded.model(loaded.batch);
    Json json{{"step", loaded.checkpoint.manifest().step}};
    std::string table =
        fmt::format("{} at step {}\n{:<17} {:<16} {:>9} {:>8} {:>7} {:>9} {:>7}\n",
                    loaded.checkpoint.directory().string(), loaded.checkpoint.manifest().step,
                    "model", "task", "questions", "acc", "stderr", "acc_norm", "stderr");
    const auto score = [&](const std::string& name, Json& to) {
        for (const ChoiceTask& task : tasks) {
            const ChoiceScore found = score_choices(model, tokenizer, task);
            table += row(name, task.name, found);
            to[task.name] = to_json(found);
        }
    };
    if (union_model) score("union", json["union"]);
    const std::vector<GroupConfig>& groups = loaded.config.topology.groups;
    for (size_t g = 0; g < groups.size() && own_models; ++g) {
        model.use_own(static_cast<int>(g));
        score("own " + groups[g].name, json["groups"][groups[g].name]);
    }
    if (loaded.prints()) fmt::print("{}", loaded.json ? json.dump() + "\n" : table);
}

}  // namespace fomoe
