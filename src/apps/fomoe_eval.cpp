// fomoe-eval: what a checkpoint is worth. Perplexity on held-out text of the union model, of each
// group's own model and of a choice among them by document; text from the union model; what it
// holds and whether it is whole.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <optional>
#include <sstream>

#include "apps/build_info.h"
#include "apps/inspect_command.h"
#include "apps/program.h"
#include "base/file.h"
#include "base/log.h"
#include "device/device.h"
#include "device/launch.h"
#include "eval/export.h"
#include "eval/generate.h"
#include "eval/logits.h"
#include "eval/report.h"

namespace fomoe {
namespace {

struct Options {
    std::string path;
    std::string backend = "auto";
    std::string dtype = "f32";
    bool json = false, info = false, verify = false;
    int batch = 8;
    std::vector<std::string> modes{"union", "own"};
    int prefix = 32;
    std::string choose = "loss";
    EvaluationOptions evaluation;  // follows from the last three
    std::optional<std::string> prompt;
    GenerateOptions generate;
    std::string export_to, logits_of, out;
};

void add_options(CLI::App& app, Options& options) {
    app.add_option("checkpoint", options.path, "Run directory or checkpoint")->required();
    app.add_flag("--json", options.json, "Print one JSON object instead of the table");
    auto* info = app.add_flag("--info", options.info, "Print what the checkpoint holds instead");
    auto* verify = app.add_flag("--verify", options.verify,
                                "Instead, compare every file with its size and hash; of a run, of "
                                "all its checkpoints. Exit code 3 when one is not whole")
                       ->excludes(info);
    app.add_option("--batch", options.batch, "Sequences that a rank computes at once")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    auto* mode = app.add_option("--mode", options.modes,
                                "What is evaluated: union, own, document; several with commas")
                     ->delimiter(',')
                     ->capture_default_str()
                     ->check(CLI::IsMember({"union", "own", "document"}))
                     ->excludes(info)
                     ->excludes(verify);
    app.add_option("--prefix", options.prefix,
                   "document: tokens that choose a document's group and do not count")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--choose", options.choose,
                   "document: by the loss of each own model, or by the router's mass on its "
                   "experts")
        ->check(CLI::IsMember({"loss", "router"}))
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
    auto* generate =
        app.add_option("--generate", options.prompt, "Continue this text instead of evaluating")
            ->excludes(mode)
            ->excludes(info)
            ->excludes(verify);
    auto* exports =
        app.add_option(
               "--export", options.export_to,
               "Write the union model in --dtype as a Hugging Face model into this directory")
            ->excludes(mode)
            ->excludes(info)
            ->excludes(verify)
            ->excludes(generate);
    auto* logits =
        app.add_option(
               "--logits", options.logits_of,
               "Write the union model's logits of this file's token ids, a sequence a line, "
               "to --out")
            ->excludes(mode)
            ->excludes(info)
            ->excludes(verify)
            ->excludes(generate)
            ->excludes(exports);
    app.add_option("--out", options.out, "logits: a .safetensors file")->needs(logits);
    app.add_option("--max-tokens", options.generate.max_tokens, "Tokens to generate")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--temperature", options.generate.temperature,
                   "0 takes the likeliest token always")
        ->check(CLI::Range(0.0, 100.0))
        ->capture_default_str();
    app.add_option("--top-p", options.generate.top_p, "Draw from the likeliest tokens of this mass")
        ->check(CLI::Range(1e-6, 1.0))
        ->capture_default_str();
    app.add_option("--seed", options.generate.seed, "Of the draws")->capture_default_str();
}

// --mode, --prefix and --choose as the evaluation takes them.
EvaluationOptions evaluation_of(const Options& options, const CLI::App& app) {
    auto asked = [&](const char* mode) { return std::ranges::count(options.modes, mode) > 0; };
    const bool document = asked("document");
    for (const char* name : {"--prefix", "--choose"})
        if (app.count(name) > 0 && !document)
            throw CLI::ValidationError(name, "has no effect without --mode document");
    return {.union_model = asked("union"),
            .own_models = asked("own"),
            .document_model = document,
            .prefix = document ? options.prefix : 0,
            .choose = options.choose == "loss" ? DocumentChoice::loss : DocumentChoice::router};
}

// With frozen copies of the other experts every group's own model is the union.
EvaluationOptions possible(EvaluationOptions asked, const Config& config) {
    if (config.federation.absent != AbsentPolicy::proxy) return asked;
    if (!asked.union_model)
        throw Error(Exit::usage,
                    "--mode: under federation.absent proxy the groups' own models are the union; "
                    "ask for union");
    asked.own_models = asked.document_model = false;
    return asked;
}

int evaluate_all(const Options& options, const Checkpoint& checkpoint, const Config& config,
                 const Device& device, Communicator& job) {
    const ValidLoader data(config);
    const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(config.model.tokenizer);
    const EvaluationOptions asked = possible(options.evaluation, config);
    auto scores = [&](const Checkpoint& from, const EvaluationOptions& what) {
        UnionModel model(from, config, options.batch, *device.backend, job, device.connect);
        return evaluate(model, data, *tokenizer, what);
    };
    EvaluationReport report{
        .run = {checkpoint.directory(), checkpoint.manifest().step},
        .groups = {},
        .options = asked,
        .results = scores(checkpoint, asked),
        .calibrated = {},
        .calibrated_model = {},
    };
    for (const GroupConfig& group : config.topology.groups) report.groups.push_back(group.name);
    const auto calibrated = find_calibrated(options.path);
    if (calibrated && asked.union_model) {
        const Checkpoint other(*calibrated);
        report.calibrated = {other.directory(), other.manifest().step};
        EvaluationOptions same = asked;
        same.own_models = same.document_model = false;
        report.calibrated_model = scores(other, same).union_model;
    }
    if (job.rank() == 0) fmt::print("{}", options.json ? report.json() : report.table());
    return 0;
}

// What can be told before anything is computed.
void check_options(const Options& options) {
    if (options.prompt && options.prompt->empty())
        throw Error(Exit::usage, "--generate: the text to continue is empty; give some");
    backend_choice(options.backend);
    const std::filesystem::path path = find_checkpoint(options.path);
    find_calibrated(options.path);
    if (options.dtype == "f16" && options.export_to.empty())
        throw Error(Exit::usage, "--dtype f16: only --export writes it; evaluate in f32 or bf16");
    if (!options.logits_of.empty() && !options.out.ends_with(".safetensors"))
        throw Error(Exit::usage, "--logits: name a .safetensors file with --out");
    if (options.evaluation.document_model)
        check_prefix(Checkpoint(path).config(), options.evaluation);
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

    if (!options.prompt && options.logits_of.empty())
        return evaluate_all(options, checkpoint, config, device, job);
    UnionModel model(checkpoint, config, 1, *device.backend, job, device.connect);
    model.use_union();
    if (!options.logits_of.empty()) {
        std::istringstream ids(read_file(options.logits_of));
        write_logits(model, read_sequences(ids, config), options.out);
        return 0;
    }
    if (job.rank() == 0) fmt::print("{}", *options.prompt);
    generate(model, *make_tokenizer(config.model.tokenizer), *options.prompt, options.generate,
             [](const std::string& text) {
                 fmt::print("{}", text);
                 std::fflush(stdout);
             });
    if (job.rank() == 0) fmt::print("\n");
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
        options.evaluation = evaluation_of(options, app);
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
