// fomoe-data: makes token files out of text, and tokenizers; shows what is in them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <thread>

#include "apps/build_info.h"
#include "apps/number_range.h"
#include "apps/token_report.h"
#include "base/error.h"
#include "base/terminal.h"
#include "base/timer.h"
#include "config/units.h"
#include "data/tokenize_files.h"
#include "data/tokenizer.h"
#include "data/train_tokenizer.h"

namespace fomoe {
namespace {

// How far tokenizing is, on one line of a terminal.
class ProgressLine {
public:
    void show(int64_t done, int64_t total) {
        if (!terminal_.draws || total == 0) return;
        const double share = static_cast<double>(done) / static_cast<double>(total);
        const double seconds = since_.seconds();
        const std::string line = fmt::format(
            "{:.0f}% | {:.1f} of {:.1f} MB | {:.1f} MB/s | {:.0f} s left", 100 * share, done / 1e6,
            total / 1e6, done / 1e6 / seconds, share > 0 ? seconds / share - seconds : 0);
        fmt::print(stderr, "\r{}\033[K", cut_to_columns(line, terminal_width() - 1));
        std::fflush(stderr);
    }
    ~ProgressLine() {
        if (terminal_.draws) fmt::print(stderr, "\r\033[K");
    }

private:
    Terminal terminal_ = stderr_terminal();
    Timer since_;
};

void tokenize(TokenizeOptions options) {
    const Timer timer;
    const TokenizeSummary summary = [&] {
        ProgressLine line;
        options.progress = [&](int64_t done, int64_t total) { line.show(done, total); };
        return tokenize_files(options);
    }();
    fmt::print("{} bytes of text in {:.1f} s\n", summary.bytes, timer.seconds());
    for (const TokenizeSummary::Part& part : summary.parts)
        fmt::print("{}: {} documents, {} tokens\n", part.prefix, part.documents, part.tokens);
}

void train(const TrainTokenizerOptions& options) {
    const TrainTokenizerSummary summary = train_tokenizer(options);
    fmt::print("{}: {}\n  trained on {} bytes in {} lines\n", options.out,
               make_tokenizer(options.out)->description(), summary.bytes, summary.lines);
}

// Of the file, or of stdin for "-".
std::string input_text(const std::string& file) {
    if (file != "-") return read_file(file);
    return {std::istreambuf_iterator<char>(std::cin), {}};
}

void encode(const std::string& tokenizer, const std::string& file) {
    std::string line;
    for (const int32_t id : make_tokenizer(tokenizer)->encode(input_text(file)))
        line += fmt::format("{}{}", line.empty() ? "" : " ", id);
    fmt::print("{}\n", line);
}

void decode(const std::string& name, const std::string& file) {
    const auto tokenizer = make_tokenizer(name);
    const std::string text = input_text(file);
    std::vector<int32_t> ids;
    constexpr const char* kBlanks = " ,\t\r\n";
    for (size_t at = 0; (at = text.find_first_not_of(kBlanks, at)) != text.npos;) {
        const size_t end = std::min(text.find_first_of(kBlanks, at), text.size());
        int32_t id = -1;
        const auto read = std::from_chars(text.data() + at, text.data() + end, id);
        if (read.ptr != text.data() + end || id < 0 || id >= tokenizer->size())
            throw Error(Exit::data,
                        fmt::format("'{}' is no id of {}: 0 to {}", text.substr(at, end - at), name,
                                    tokenizer->size() - 1));
        ids.push_back(id);
        at = end;
    }
    const std::string bytes = tokenizer->decode(ids);
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
}

// "64MiB" -> "67108864"
CLI::Validator bytes_with_unit() {
    return {[](std::string& text) -> std::string {
                const std::optional<double> bytes = read_bytes(text);
                if (!bytes || *bytes < 1 || *bytes > 1e18)
                    return fmt::format("'{}'; a size above 0 such as 4096 or 64MiB is expected",
                                       text);
                text = fmt::format("{:.0f}", std::floor(*bytes));
                return "";
            },
            "BYTES"};
}

// What token files have already is not asked for again.
void check_for_token_files(const CLI::App& app, const TokenizeOptions& options) {
    const auto& inputs = options.documents.inputs;
    if (std::ranges::none_of(inputs, names_token_files)) return;
    for (const char* option : {"--split-on", "--valid-fraction", "--max-bytes"})
        if (app.count(option) > 0)
            throw Error(Exit::usage,
                        fmt::format("{}: token files have their documents, and those that are held "
                                    "out; it is for text files",
                                    option));
}

int run(int argc, char** argv) {
    CLI::App app(
        "Makes token files (Megatron's indexed datasets) and tokenizers out of text, and shows "
        "them.",
        "fomoe-data");
    app.require_subcommand(1);
    add_build_options(app);
    const std::string kTokenizerHelp =
        "bytes, a SentencePiece model, or a directory of tools/tokenize_hf.py";
    const std::string kInputsHelp =
        "text files, or prefixes of token files, whose documents are taken as they are; a file of "
        "just this name is a text";

    TokenizeOptions options;
    options.threads = std::max(1u, std::thread::hardware_concurrency());
    std::string split = "file";
    CLI::App* make = app.add_subcommand("tokenize", "Text files -> PREFIX.train and PREFIX.valid");
    make->add_option("--tokenizer", options.tokenizer, kTokenizerHelp)->capture_default_str();
    make->add_option("--out", options.out, "PREFIX of the files that are written")->required();
    make->add_option(
            "--split-on", split,
            "where documents end: file, blank-line, regex:RE (each line with a match in its "
            "first 4096 bytes starts one), bytes:N")
        ->capture_default_str();
    make->add_option("--valid-fraction", options.documents.valid_fraction,
                     "share of the documents that is held out")
        ->check(number_range(0.0, 0.99))
        ->capture_default_str();
    make->add_option("--max-bytes", options.max_bytes,
                     "leave out the text after so many bytes: 4096, 64MiB, 2GB")
        ->transform(bytes_with_unit());
    make->add_option("--threads", options.threads, "that encode")->check(CLI::Range(1, 1024));
    make->add_flag("--force", options.force, "replace files that exist");
    make->add_option("FILES", options.documents.inputs, kInputsHelp)->required();

    TrainTokenizerOptions training;
    CLI::App* learn =
        app.add_subcommand("train-tokenizer", "Text files -> a SentencePiece model file");
    learn->add_option("--out", training.out, "the file that is written")->required();
    learn->add_option("--size", training.size, "ids, with those of the 256 bytes")
        ->check(CLI::Range(260, 1 << 20))
        ->capture_default_str();
    std::string type = "bpe";
    learn->add_option("--type", type, "bpe, which llama.cpp encodes in the same way, or unigram")
        ->check(CLI::IsMember({"bpe", "unigram"}))
        ->capture_default_str();
    learn
        ->add_option("--max-bytes", training.max_bytes,
                     "of text to learn from; of more, lines are drawn evenly")
        ->transform(bytes_with_unit())
        ->default_str("64MiB");
    learn->add_flag("--force", training.force, "replace a file that exists");
    learn->add_option("FILES", training.documents.inputs, kInputsHelp + ", but for the held-out")
        ->required();

    std::string tokenizer, file = "-";
    CLI::App* to_ids = app.add_subcommand("encode", "A text -> its token ids, on one line");
    CLI::App* to_text = app.add_subcommand("decode", "Token ids -> their text");
    for (CLI::App* command : {to_ids, to_text}) {
        command->add_option("--tokenizer", tokenizer, kTokenizerHelp)->required();
        command->add_option("FILE", file, "-: stdin")->capture_default_str();
    }

    std::string name;
    int documents = 3;
    bool json = false;
    CLI::App* show = app.add_subcommand("inspect", "Counts, lengths, tokenizer and some text");
    show->add_option("NAME", name, "a prefix, or a .bin or .idx file")->required();
    show->add_option("--documents", documents, "whose start is shown")
        ->check(CLI::Range(0, 1 << 20))
        ->capture_default_str();
    show->add_flag("--json", json, "Print one JSON list instead");

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : static_cast<int>(Exit::usage);
    }
    if (make->parsed()) {
        check_for_token_files(*make, options);
        options.documents.split = parse_split_rule(split);
        tokenize(std::move(options));
    }
    if (learn->parsed()) {
        training.documents.valid_fraction = 0;
        training.model = type == "bpe" ? PieceModel::bpe : PieceModel::unigram;
        train(training);
    }
    if (to_ids->parsed()) encode(tokenizer, file);
    if (to_text->parsed()) decode(tokenizer, file);
    if (show->parsed()) print_token_files(name, documents, json);
    return 0;
}

}  // namespace
}  // namespace fomoe

int main(int argc, char** argv) {
    try {
        return fomoe::run(argc, argv);
    } catch (const fomoe::Error& error) {
        fmt::print(stderr, "error: {}\n", error.what());
        return static_cast<int>(error.exit);
    } catch (const std::exception& error) {
        fmt::print(stderr, "error: {}\n", error.what());
        return static_cast<int>(fomoe::Exit::internal);
    }
}
