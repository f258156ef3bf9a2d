// fomoe-eval: what a checkpoint is worth. Perplexity of the union model and of each group's own
// model on held-out text, and text from the union model.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/program.h"
#include "base/log.h"
#include "device/device.h"
#include "device/launch.h"
#include "eval/generate.h"
#include "eval/perplexity.h"

namespace fomoe {
namespace {

struct Options {
    std::string path;
    std::string backend = "auto";
    bool json = false;
    int batch = 8;
    std::optional<std::string> prompt;
    GenerateOptions generate;
};

void add_options(CLI::App& app, Options& options) {
    app.add_option("checkpoint", options.path, "Run directory or checkpoint")->required();
    app.add_flag("--json", options.json, "Print one JSON object instead of the table");
    app.add_option("--batch", options.batch, "Sequences that a rank computes at once")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    app.add_option("--backend", options.backend, "auto, cpu or cuda")->capture_default_str();
    app.add_option("--generate", options.prompt, "Continue this text instead of evaluating");
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

nlohmann::ordered_json to_json(const Score& score) {
    return {{"loss", score.loss()},
            {"perplexity", score.perplexity()},
            {"bits_per_byte", score.bits_per_byte()},
            {"tokens", static_cast<int64_t>(score.tokens)}};
}
nlohmann::ordered_json to_json(const Evaluation& evaluation) {
    nlohmann::ordered_json json{{"pooled", to_json(evaluation.pooled)}};
    for (const auto& [name, score] : evaluation.domains) json["domains"][name] = to_json(score);
    return json;
}

void print_table(const std::string& model, const Evaluation& evaluation) {
    auto line = [&](const std::string& domain, const Score& score) {
        fmt::print("{:<16} {:<16} {:>8.4f} {:>11.3f} {:>10.4f} {:>9}\n", model, domain,
                   score.loss(), score.perplexity(), score.bits_per_byte(),
                   static_cast<int64_t>(score.tokens));
    };
    for (const auto& [name, score] : evaluation.domains) line(name, score);
    line("pooled", evaluation.pooled);
}

int evaluate_all(const Options& options, const Checkpoint& checkpoint, const Config& config,
                 Backend& backend, Communicator& job) {
    UnionModel model(checkpoint, config, options.batch, backend, job);
    const ValidLoader data(config);
    const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(config.model.tokenizer);
    const bool speaks = job.rank() == 0, table = speaks && !options.json;

    nlohmann::ordered_json json{{"step", checkpoint.manifest().step}};
    if (table) {
        fmt::print("{} at step {}\n", checkpoint.directory().string(), checkpoint.manifest().step);
        fmt::print("{:<16} {:<16} {:>8} {:>11} {:>10} {:>9}\n", "model", "domain", "loss",
                   "perplexity", "bits/byte", "tokens");
    }
    model.use_union();
    Evaluation evaluation = evaluate(model, data, *tokenizer);
    json["union"] = to_json(evaluation);
    if (table) print_table("union", evaluation);
    // With frozen copies of the other experts every group's own model is the union.
    const bool own = config.federation.absent != AbsentPolicy::proxy;
    for (size_t g = 0; own && g < config.topology.groups.size(); ++g) {
        const std::string& name = config.topology.groups[g].name;
        model.use_own(static_cast<int>(g));
        evaluation = evaluate(model, data, *tokenizer);
        json["groups"][name] = to_json(evaluation);
        if (table) print_table("own " + name, evaluation);
    }
    if (speaks && options.json) fmt::print("{}\n", json.dump());
    return 0;
}

// What the command line alone decides; nothing has been computed.
void check_options(const Options& options) {
    if (options.prompt && options.prompt->empty())
        throw Error(Exit::usage, "--generate: the text to continue is empty; give some");
    backend_choice(options.backend);
    find_checkpoint(options.path);
}

int run(const Options& options, Communicator& job) {
    const Checkpoint checkpoint(find_checkpoint(options.path));
    Config config = checkpoint.config();
    config.model.vocab_size = vocab_size(config.model);
    const Threads threads = threads_per_rank(job);
    Device device = make_device(backend_choice(options.backend), threads);

    if (!options.prompt) return evaluate_all(options, checkpoint, config, *device.backend, job);
    UnionModel model(checkpoint, config, 1, *device.backend, job);
    model.use_union();
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
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const int code = app.exit(error);
        return code == 0 ? 0 : static_cast<int>(Exit::usage);
    }
    init_log(LogLevel::info);
    if (started_by_launcher())
        return run_ranks_of_job([&](Communicator&) { check_options(options); },
                                [&](Communicator& job) { return run(options, job); });
    return run_alone([&] {
        check_options(options);
        return run(options, *make_self_communicator());
    });
}
