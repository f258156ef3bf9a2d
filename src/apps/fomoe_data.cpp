// fomoe-data: makes token files out of text and shows what is in them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <limits>

#include "apps/build_info.h"
#include "base/error.h"
#include "data/token_file.h"
#include "data/tokenize_files.h"
#include "data/tokenizer.h"

namespace fomoe {
namespace {

void tokenize(const TokenizeOptions& options) {
    const TokenizeSummary summary = tokenize_files(options);
    fmt::print("{} bytes of text\n", summary.bytes);
    for (const TokenizeSummary::Part& part : summary.parts)
        fmt::print("{}: {} documents, {} tokens\n", part.prefix, part.documents, part.tokens);
}

// The token files that a prefix, or the name of one file, stands for.
std::vector<std::string> prefixes_of(std::string name) {
    for (const char* kind : {".bin", ".idx"})
        if (name.ends_with(kind)) name.resize(name.size() - 4);
    std::vector<std::string> found;
    for (const std::string& prefix : {name, name + ".train", name + ".valid"})
        if (std::filesystem::exists(prefix + ".idx")) found.push_back(prefix);
    if (found.empty())
        throw Error(Exit::data,
                    fmt::format("there is no {0}.idx, {0}.train.idx or {0}.valid.idx", name));
    return found;
}

// The start of a document, on one line.
std::string excerpt(const TokenFile& file, const Tokenizer& tokenizer) {
    std::vector<int32_t> tokens(std::min<int64_t>(64, file.n_tokens()));
    file.read(0, tokens, std::numeric_limits<int32_t>::max());
    std::string line;
    for (char c : tokenizer.decode(tokens)) {
        if (c == '\n')
            line += "\\n";
        else
            line += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return line;
}

void inspect(const std::string& name) {
    constexpr int64_t kPiece = 1 << 16;
    for (const std::string& prefix : prefixes_of(name)) {
        const TokenFile file(prefix);
        int64_t shortest = file.n_documents() > 0 ? file.n_tokens() : 0, longest = 0;
        for (int64_t d = 0; d < file.n_documents(); ++d) {
            const int64_t length = file.document_begin(d + 1) - file.document_begin(d);
            shortest = std::min(shortest, length);
            longest = std::max(longest, length);
        }
        int32_t largest = -1;
        std::vector<int32_t> piece(kPiece);
        for (int64_t begin = 0; begin < file.n_tokens(); begin += kPiece) {
            const auto part = std::span(piece).first(std::min(kPiece, file.n_tokens() - begin));
            file.read(begin, part, std::numeric_limits<int32_t>::max());
            largest = std::max(largest, *std::ranges::max_element(part));
        }
        fmt::print("{}\n  {} documents of {} to {} tokens\n  {} tokens of type {}, largest id {}\n",
                   prefix, file.n_documents(), shortest, longest, file.n_tokens(),
                   name_of(file.type()), largest);
        const auto tokenizer = make_tokenizer("bytes");
        if (largest < tokenizer->size()) fmt::print("  as bytes: {}\n", excerpt(file, *tokenizer));
    }
}

int run(int argc, char** argv) {
    CLI::App app("Makes token files (Megatron's indexed datasets) out of text, and shows them.",
                 "fomoe-data");
    app.require_subcommand(1);
    add_build_options(app);

    TokenizeOptions options;
    std::string split = "file";
    CLI::App* make = app.add_subcommand("tokenize", "Text files -> PREFIX.train and PREFIX.valid");
    make->add_option("--tokenizer", options.tokenizer, "bytes")->capture_default_str();
    make->add_option("--out", options.out, "PREFIX of the files that are written")->required();
    make->add_option(
            "--split-on", split,
            "where documents end: file, blank-line, regex:RE (each line with a match in its "
            "first 4096 bytes starts one), bytes:N")
        ->capture_default_str();
    make->add_option("--valid-fraction", options.valid_fraction,
                     "share of the documents that is held out")
        ->check(CLI::Range(0.0, 0.99))
        ->capture_default_str();
    make->add_option("--max-bytes", options.max_bytes, "leave out the text after so many bytes")
        ->check(CLI::PositiveNumber);
    make->add_flag("--force", options.force, "replace files that exist");
    make->add_option("FILES", options.files, "text files")->required();

    std::string name;
    CLI::App* show = app.add_subcommand("inspect", "Counts, lengths and the first bytes");
    show->add_option("NAME", name, "a prefix, or a .bin or .idx file")->required();

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : static_cast<int>(Exit::usage);
    }
    if (make->parsed()) {
        options.split = parse_split_rule(split);
        tokenize(options);
    }
    if (show->parsed()) inspect(name);
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
