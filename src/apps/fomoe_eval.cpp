// fomoe-eval: what a checkpoint is worth, and what can be had from it. Each command lies in a file
// of its own.
#include <CLI/CLI.hpp>
#include <sstream>

#include "apps/build_info.h"
#include "apps/choice_command.h"
#include "apps/evaluate_command.h"
#include "apps/generate_command.h"
#include "apps/inspect_command.h"
#include "apps/program.h"
#include "base/file.h"
#include "base/log.h"
#include "device/launch.h"
#include "eval/export.h"
#include "eval/logits.h"

namespace fomoe {
namespace {

struct Options {
    std::string path;
    std::string backend = "auto";
    std::string dtype = "f32";
    bool json = false, info = false, verify = false;
    int batch = 8;
    EvaluateCommand evaluate;
    ChoiceCommand choice;
    GenerateCommand generate;
    std::string export_to, logits_of, out;
};

void add_options(CLI::App& app, Options& options) {
    app.add_option("checkpoint", options.path, "Run directory or checkpoint")->required();
    app.add_flag("--json", options.json, "Print one JSON object instead of the table");
    app.add_option("--batch", options.batch, "Sequences that a rank computes at once")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    app.add_option("--backend", options.backend,
                   "cpu; cuda: a GPU, or an error; auto: a GPU, or the CPU where there is none")
        ->capture_default_str();
    app.add_option(
           "--dtype", options.dtype,
           "f32: the same figures for every checkpoint and device, whatever it was trained "
           "in; bf16: as a training in bf16 computes, with half the memory traffic; f16: --export")
        ->check(CLI::IsMember({"f32", "bf16", "f16"}))
        ->capture_default_str();

    // Only one of these, or none of them.
    std::vector<CLI::Option*> commands{
        app.add_flag("--info", options.info, "Print what the checkpoint holds instead"),
        app.add_flag("--verify", options.verify,
                     "Instead, compare every file with its size and hash; of a run, of "
                     "all its checkpoints. Exit code 3 when one is not whole")};
    const EvaluateOptions evaluate = add_evaluate_options(app, options.evaluate);
    commands.insert(commands.end(), evaluate.commands.begin(), evaluate.commands.end());
    CLI::Option* const tasks = add_choice_options(app, options.choice);
    commands.push_back(tasks);
    for (CLI::Option* generate : add_generate_options(app, options.generate))
        commands.push_back(generate);
    commands.push_back(app.add_option(
        "--export", options.export_to,
        "Write the union model in --dtype as a Hugging Face model into this directory"));
    auto* logits = app.add_option(
        "--logits", options.logits_of,
        "Write the union model's logits of this file's token ids, a sequence a line, "
        "to --out");
    commands.push_back(logits);
    app.add_option("--out", options.out, "logits: a .safetensors file")->needs(logits);
    for (size_t i = 0; i < commands.size(); ++i) {
        for (size_t j = 0; j < i; ++j) commands[i]->excludes(commands[j]);
        if (commands[i] != tasks) evaluate.mode->excludes(commands[i]);
    }
}

// What can be told before anything is computed.
void check_options(const Options& options) {
    backend_choice(options.backend);
    check_evaluate(options.evaluate, options.path);
    if (options.dtype == "f16" && options.export_to.empty())
        throw Error(Exit::usage, "--dtype f16: only --export writes it; evaluate in f32 or bf16");
    if (!options.logits_of.empty() && !options.out.ends_with(".safetensors"))
        throw Error(Exit::usage, "--logits: name a .safetensors file with --out");
    read_tasks(options.choice);
    check_generate(options.generate, Checkpoint(find_checkpoint(options.path)).config());
}

DType export_dtype(const std::string& name) {
    return name == "f32" ? DType::f32 : name == "bf16" ? DType::bf16 : DType::f16;
}

int run(const Options& options, Communicator& job) {
    const Checkpoint checkpoint(find_checkpoint(options.path));
    Config config = checkpoint.config();
    config.model.vocab_size = vocab_size(config.model);
    config.train.dtype = options.dtype == "bf16" ? ComputeType::bf16 : ComputeType::f32;
    if (!options.export_to.empty()) {
        if (job.rank() == 0)
            export_model(checkpoint, config, options.export_to, export_dtype(options.dtype));
        return 0;
    }
    const Threads threads = threads_per_rank(job);
    const Device device = make_device({.choice = backend_choice(options.backend)}, threads, job);
    const LoadedCheckpoint loaded{checkpoint, config, device, job, options.batch, options.json};
    if (options.generate.asked()) {
        run_generate(options.generate, loaded);
    } else if (options.choice.asked()) {
        const EvaluationOptions asked = possible(options.evaluate.asked, config);
        run_tasks(read_tasks(options.choice), asked.union_model, asked.own_models, loaded);
    } else if (!options.logits_of.empty()) {
        UnionModel model = loaded.model(1);
        std::istringstream ids(read_file(options.logits_of));
        write_logits(model, read_sequences(ids, config, "--logits", config.data.seq_len),
                     options.out);
    } else {
        run_evaluate(options.evaluate, options.path, loaded);
    }
    return 0;
}

}  // namespace
}  // namespace fomoe

int main(int argc, char** argv) {
    using namespace fomoe;
    CLI::App app(
        "Evaluates a checkpoint of fomoe-train: alone, or on any number of ranks of mpirun.");
    Options options;
    add_options(app, options);
    add_build_options(app);
    try {
        app.parse(argc, argv);
        take_modes(options.evaluate, app);
        if (options.choice.asked() && options.evaluate.asked.document_model)
            throw CLI::ValidationError("--tasks", "is of union and own models; leave document out");
        check_lone_options(options.generate, app);
    } catch (const CLI::ParseError& error) {
        const int code = app.exit(error);
        return code == 0 ? 0 : static_cast<int>(Exit::usage);
    }
    init_log(LogLevel::info);
    if (options.info || options.verify)
        return run_alone([&] {
            if (options.verify)
                return print_verification(options.path, options.json)
                           ? 0
                           : static_cast<int>(Exit::data);
            print_info(options.path, options.json);
            return 0;
        });
    if (started_by_launcher())
        return run_ranks_of_job([&](Communicator&) { check_options(options); },
                                [&](Communicator& job, Watchdog&) { return run(options, job); });
    return run_alone([&] {
        check_options(options);
        return run(options, *make_self_communicator());
    });
}
