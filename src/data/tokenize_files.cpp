#include "data/tokenize_files.h"

#include <fmt/format.h>

#include <deque>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace fomoe {
namespace {

void refuse_to_overwrite(const std::string& prefix) {
    for (const char* kind : {".bin", ".idx"})
        if (std::filesystem::exists(prefix + kind))
            throw Error(Exit::data, fmt::format("{}{} exists; --force replaces it, or give another "
                                                "--out",
                                                prefix, kind));
}

}  // namespace

TokenizeSummary tokenize_files(const TokenizeOptions& options) {
    const auto tokenizer = make_tokenizer(options.tokenizer);
    const TokenType type = tokenizer->size() <= 1 << 16 ? TokenType::u16 : TokenType::i32;
    std::vector<std::string> prefixes{options.out + ".train"};
    if (options.valid_fraction > 0) prefixes.push_back(options.out + ".valid");
    if (!options.force)
        for (const std::string& prefix : prefixes) refuse_to_overwrite(prefix);
    const std::filesystem::path directory = std::filesystem::path(options.out).parent_path();
    std::error_code error;
    if (!directory.empty()) std::filesystem::create_directories(directory, error);
    if (error)
        throw Error(Exit::data,
                    fmt::format("{}: cannot create: {}", directory.string(), error.message()));

    std::deque<TokenFileWriter> writers;
    for (const std::string& prefix : prefixes) writers.emplace_back(prefix, type);
    const uint64_t key = random_key(0, "valid");
    TokenizeSummary summary;
    int64_t number = 0;
    bool full = false;
    for (size_t i = 0; i < options.files.size() && !full; ++i) {
        const MappedFile file(options.files[i]);
        for (std::string_view document : split_documents(file.text(), options.split)) {
            const int64_t size = static_cast<int64_t>(document.size());
            full = options.max_bytes > 0 && summary.bytes + size > options.max_bytes;
            if (full) break;
            std::vector<int32_t> tokens = tokenizer->encode(document);
            tokens.push_back(tokenizer->end_of_document());
            const bool valid = random_uniform(key, number) < options.valid_fraction;
            writers[valid ? 1 : 0].add_document(tokens);
            summary.bytes += size;
            ++number;
        }
    }
    for (size_t part = 0; part < writers.size(); ++part) {
        if (writers[part].n_documents() == 0)
            throw Error(Exit::data,
                        fmt::format("{} would be empty: the text has {} document{}. Cut it finer "
                                    "with --split-on blank-line, regex:RE or bytes:N, or change "
                                    "--valid-fraction (0: no held-out text){}",
                                    prefixes[part], number, number == 1 ? "" : "s",
                                    options.max_bytes > 0 ? " or --max-bytes" : ""));
        summary.parts.push_back(
            {prefixes[part], writers[part].n_documents(), writers[part].n_tokens()});
    }
    for (TokenFileWriter& writer : writers) writer.commit();
    return summary;
}

}  // namespace fomoe
