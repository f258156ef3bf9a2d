#include "apps/evaluate_command.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/save.h"
#include "eval/expert_use.h"
#include "eval/report.h"

namespace fomoe {
namespace {

CheckpointPart part_of(const Checkpoint& checkpoint) {
    return {checkpoint.directory(), checkpoint.manifest().step};
}

void run_experts(const LoadedCheckpoint& loaded) {
    UnionModel model = loaded.model(loaded.batch);
    const ExpertUse use = expert_use(model, ValidLoader(loaded.config));
    if (!loaded.prints()) return;
    if (loaded.json)
        fmt::print("{}\n", use.json());
    else
        fmt::print("{} at step {}: shares of the choices of a domain's tokens\n{}",
                   loaded.checkpoint.directory().string(), loaded.checkpoint.manifest().step,
                   use.table());
}

// The config with which the other checkpoint's model reads this one's text.
Config other_config(const Checkpoint& other, const Config& config) {
    Config own = other.config();
    check_comparable(config, own);
    own.model.vocab_size = vocab_size(own.model);
    own.data = config.data;
    own.train.dtype = config.train.dtype;
    return own;
}

void run_compare(const std::string& path, const LoadedCheckpoint& loaded) {
    const Tokenizer& tokenizer = known_tokenizer(loaded.config.model.tokenizer);
    const ValidLoader data(loaded.config);
    const Checkpoint other(find_checkpoint(path));
    const Config config = other_config(other, loaded.config);
    const LoadedCheckpoint second{other,      config,       loaded.device,
                                  loaded.job, loaded.batch, loaded.json};
    const auto losses = [&](const LoadedCheckpoint& of) {
        UnionModel model = of.model(of.batch);  // one in memory at a time
        return segment_losses(model, data, tokenizer);
    };
    const SegmentLosses a = losses(loaded), b = losses(second);
    const ComparisonReport report{part_of(loaded.checkpoint), part_of(other),
                                  compare(a, b, data, loaded.job)};
    if (loaded.prints()) fmt::print("{}", loaded.json ? report.json() : report.table());
}

void run_perplexity(const EvaluateCommand& command, const std::string& path,
                    const LoadedCheckpoint& loaded) {
    const ValidLoader data(loaded.config);
    const Tokenizer& tokenizer = known_tokenizer(loaded.config.model.tokenizer);
    const EvaluationOptions asked = possible(command.asked, loaded.config);
    auto scores = [&](const Checkpoint& from, const EvaluationOptions& what) {
        UnionModel model(from, loaded.config, loaded.batch, *loaded.device.backend, loaded.job,
                         loaded.device.connect);
        return evaluate(model, data, tokenizer, what);
    };
    EvaluationReport report{
        .run = part_of(loaded.checkpoint),
        .groups = {},
        .options = asked,
        .results = scores(loaded.checkpoint, asked),
        .calibrated = {},
        .calibrated_model = {},
    };
    for (const GroupConfig& group : loaded.config.topology.groups)
        report.groups.push_back(group.name);
    const auto calibrated = find_calibrated(path);
    if (calibrated && asked.union_model) {
        const Checkpoint other(*calibrated);
        report.calibrated = part_of(other);
        EvaluationOptions same = asked;
        same.own_models = same.document_model = false;
        report.calibrated_model = scores(other, same).union_model;
    }
    if (loaded.prints()) fmt::print("{}", loaded.json ? report.json() : report.table());
}

}  // namespace

EvaluateOptions add_evaluate_options(CLI::App& app, EvaluateCommand& command) {
    EvaluateOptions options;
    options.mode = app.add_option("--mode", command.modes,
                                  "What is evaluated: union, own, document; several with commas")
                       ->delimiter(',')
                       ->capture_default_str()
                       ->check(CLI::IsMember({"union", "own", "document"}));
    app.add_option("--prefix", command.prefix,
                   "document: tokens that choose a document's group and do not count")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--choose", command.choose,
                   "document: by the loss of each own model, or by the router's mass on its "
                   "experts")
        ->check(CLI::IsMember({"loss", "router"}))
        ->capture_default_str();
    options.commands = {
        app.add_option("--compare", command.compare,
                       "Instead, the union beside that of this run or checkpoint, on the same "
                       "held-out text, with the standard error of the difference"),
        app.add_flag("--experts", command.experts,
                     "Instead, the share of every expert in the choices of each domain's tokens"),
    };
    return options;
}

void take_modes(EvaluateCommand& command, const CLI::App& app) {
    auto asked = [&](const char* mode) { return std::ranges::count(command.modes, mode) > 0; };
    const bool document = asked("document");
    for (const char* name : {"--prefix", "--choose"})
        if (app.count(name) > 0 && !document)
            throw CLI::ValidationError(name, "has no effect without --mode document");
    command.asked = {
        .union_model = asked("union"),
        .own_models = asked("own"),
        .document_model = document,
        .prefix = document ? command.prefix : 0,
        .choose = command.choose == "loss" ? DocumentChoice::loss : DocumentChoice::router};
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

void check_evaluate(const EvaluateCommand& command, const std::string& path) {
    find_calibrated(path);
    const std::filesystem::path found = find_checkpoint(path);
    if (command.asked.document_model) check_prefix(Checkpoint(found).config(), command.asked);
    if (!command.compare.empty())
        check_comparable(Checkpoint(found).config(),
                         Checkpoint(find_checkpoint(command.compare)).config());
}

void run_evaluate(const EvaluateCommand& command, const std::string& path,
                  const LoadedCheckpoint& loaded) {
    if (command.experts)
        run_experts(loaded);
    else if (!command.compare.empty())
        run_compare(command.compare, loaded);
    else
        run_perplexity(command, path, loaded);
}

}  // namespace fomoe
