#include "apps/generate_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/number_range.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/model_files.h"
#include "eval/logits.h"
#include "plan/units.h"

namespace fomoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kGenerate = "--generate";
constexpr const char* kPromptTokens = "--prompt-tokens";

// The prompts with their continuations on stdout, in order: the first that is not over as it comes,
// those behind it when it is their turn.
class Printer {
public:
    explicit Printer(std::vector<std::string> prompts)
        : prompts_(std::move(prompts)), waiting_(prompts_.size()), over_(prompts_.size(), false) {
        start();
    }
    void add(size_t prompt, const std::string& text, bool last) {
        waiting_[prompt] += text;
        over_[prompt] = last;
        show();
        while (turn_ < prompts_.size() && over_[turn_]) {
            fmt::print("\n");
            if (++turn_ == prompts_.size()) break;
            fmt::print("\n");
            start();
            show();
        }
        std::fflush(stdout);
    }

private:
    void start() {
        fmt::print("{}", prompts_[turn_]);
        std::fflush(stdout);
    }
    void show() { fmt::print("{}", std::exchange(waiting_[turn_], {})); }

    std::vector<std::string> prompts_, waiting_;
    std::vector<bool> over_;
    size_t turn_ = 0;
};

int group_of(const Config& config, const std::string& name) {
    std::string names;
    for (size_t g = 0; g < config.topology.groups.size(); ++g) {
        if (config.topology.groups[g].name == name) return static_cast<int>(g);
        names += (names.empty() ? "" : ", ") + config.topology.groups[g].name;
    }
    throw Error(Exit::usage, fmt::format("--group {}: the groups are {}", name, names));
}

Json to_json(const Generation& made, const Tokenizer& tokenizer) {
    return {{"prompt", tokenizer.decode(made.prompt)},
            {"prompt_tokens", made.prompt},
            {"text", made.text},
            {"tokens", made.tokens},
            {"end", name_of(made.end)}};
}

double rate(int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
}

void print_json(const Generations& made, const GenerateCommand& command,
                const LoadedCheckpoint& loaded, const Tokenizer& tokenizer) {
    Json all = Json::array();
    for (const Generation& each : made.all) all.push_back(to_json(each, tokenizer));
    const Json json{{"step", loaded.checkpoint.manifest().step},
                    {"model", command.group.empty() ? "union" : "own " + command.group},
                    {"generations", all},
                    {"prompt_seconds", made.prompt_seconds},
                    {"seconds", made.seconds},
                    {"tokens_per_second", rate(made.new_tokens, made.seconds)},
                    {"cache_bytes", made.cache_bytes}};
    // Bytes that are no text become the replacement character.
    fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace

std::vector<CLI::Option*> add_generate_options(CLI::App& app, GenerateCommand& command) {
    GenerateOptions& options = command.options;
    auto* text = app.add_option(kGenerate, command.prompts,
                                "Continue this text instead of evaluating; may be given again")
                     ->allow_extra_args(false);
    auto* tokens = app.add_option(kPromptTokens, command.prompt_tokens,
                                  "Continue the token ids in this file, a prompt a line");
    app.add_option("--group", command.group,
                   "generate: by the own model of this group; without it by the union");
    app.add_option("--max-tokens", options.max_tokens, "Tokens to generate, at most")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--temperature", options.temperature, "0 takes the likeliest token always")
        ->check(number_range(0.0, 100.0))
        ->capture_default_str();
    app.add_option("--top-k", options.top_k, "Draw from so many likeliest tokens; 0: from all")
        ->check(CLI::Range(0, 1 << 24))
        ->capture_default_str();
    app.add_option("--top-p", options.top_p,
                   "Draw from the likeliest tokens of this mass, of those that --top-k leaves")
        ->check(number_range(1e-6, 1.0))
        ->capture_default_str();
    app.add_option("--seed", options.seed, "Of the draws")->capture_default_str();
    app.add_option("--stop", options.stops,
                   "A text before which the continuation ends; may be given again")
        ->allow_extra_args(false);
    return {text, tokens};
}

void check_lone_options(const GenerateCommand& command, const CLI::App& app) {
    if (command.asked()) return;
    for (const char* name :
         {"--group", "--max-tokens", "--temperature", "--top-k", "--top-p", "--seed", "--stop"})
        if (app.count(name) > 0)
            throw CLI::ValidationError(name, "has no effect without --generate");
}

void check_generate(const GenerateCommand& command, const Config& config) {
    if (std::ranges::count(command.prompts, "") > 0)
        throw Error(Exit::usage, "--generate: the text to continue is empty; give some");
    if (std::ranges::count(command.options.stops, "") > 0)
        throw Error(Exit::usage, "--stop: the text is empty; give some");
    if (!command.group.empty()) group_of(config, command.group);
    if (!command.group.empty() && config.federation.absent == AbsentPolicy::proxy)
        throw Error(Exit::usage,
                    "--group: under federation.absent proxy the groups' own models are the union; "
                    "leave it out");
}

void run_generate(const GenerateCommand& command, const LoadedCheckpoint& loaded) {
    const Config& config = loaded.config;
    refuse_foreign_tokenizer(loaded.checkpoint.directory() / kModelDirectory, config);
    const Tokenizer& tokenizer = known_tokenizer(config.model.tokenizer);
    std::vector<std::vector<int32_t>> prompts;
    std::vector<std::string> texts = command.prompts;
    for (const std::string& text : texts) prompts.push_back(tokenizer.encode(text));
    if (!command.prompt_tokens.empty()) {
        std::istringstream ids(read_file(command.prompt_tokens));
        prompts = read_sequences(ids, config, kPromptTokens, INT32_MAX);
        for (const auto& prompt : prompts) texts.push_back(tokenizer.decode(prompt));
    }
    size_t longest = 0;
    for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
    const int64_t length = static_cast<int64_t>(longest) + command.options.max_tokens;
    if (loaded.prints() && length > config.data.seq_len)
        log_warning(
            fmt::format("a prompt of {} tokens and {} new ones are more than the {} of the "
                        "sequences that the model has learned from: text behind them may be "
                        "poor",
                        longest, command.options.max_tokens, config.data.seq_len));
    UnionModel model = loaded.model(1);
    if (!command.group.empty()) model.use_own(group_of(config, command.group));
    GenerateOptions options = command.options;
    options.batch = loaded.batch;

    std::optional<Printer> printer;
    if (loaded.prints() && !loaded.json) printer.emplace(texts);
    const Generations made = generate(model, tokenizer, prompts, options,
                                      [&](size_t prompt, const std::string& text, bool last) {
                                          if (printer) printer->add(prompt, text, last);
                                      });
    if (!loaded.prints()) return;
    if (loaded.json) print_json(made, command, loaded, tokenizer);
    log_info(fmt::format(
        "{} tokens in {:.2f} s: {:.1f} tokens/s | {} tokens of {} {} in {:.2f} s | cache of keys "
        "and values: {} for {} x {} tokens",
        made.new_tokens, made.seconds, rate(made.new_tokens, made.seconds), made.prompt_tokens,
        made.all.size(), made.all.size() == 1 ? "prompt" : "prompts", made.prompt_seconds,
        size_text(static_cast<double>(made.cache_bytes)),
        std::min<size_t>(made.all.size(), options.batch), length));
}

}  // namespace fomoe
