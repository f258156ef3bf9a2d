#include "data/tokenize_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "data/tokenizer_card.h"

namespace fomoe {
namespace {

constexpr int64_t kHeld = int64_t{16} << 20;  // bytes of text in memory at once

void refuse_to_overwrite(const std::string& prefix) {
    for (const char* kind : {".bin", ".idx"})
        if (std::filesystem::exists(prefix + kind))
            throw Error(Exit::data, fmt::format("{}{} exists; --force replaces it, or give another "
                                                "--out",
                                                prefix, kind));
}

using Ids = std::vector<int32_t>;

// What the threads throw is thrown again here.
std::vector<Ids> encode_all(const Tokenizer& tokenizer, const std::vector<Document>& documents,
                            int n_threads) {
    std::vector<Ids> ids(documents.size());
    std::atomic<size_t> next = 0;
    std::mutex mutex;
    std::exception_ptr failure;
    const auto work = [&] {
        try {
            for (size_t i; (i = next++) < documents.size();) {
                ids[i] = tokenizer.encode(documents[i].text);
                ids[i].push_back(tokenizer.end_of_document());
            }
        } catch (...) {
            const std::lock_guard lock(mutex);
            failure = std::current_exception();
        }
    };
    {
        std::vector<std::jthread> threads;
        for (int i = 1; i < n_threads; ++i) threads.emplace_back(work);
        work();
    }
    if (failure) std::rethrow_exception(failure);
    return ids;
}

}  // namespace

TokenizeSummary tokenize_files(const TokenizeOptions& options) {
    const auto tokenizer = make_tokenizer(options.tokenizer);
    const TokenType type = tokenizer->size() <= 1 << 16 ? TokenType::u16 : TokenType::i32;
    const bool holds_out = holds_documents_out(options.documents);
    std::vector<std::string> prefixes{options.out + ".train"};
    if (holds_out) prefixes.push_back(options.out + ".valid");
    // Both parts have the one card, so what is not written anew must not stay either.
    const std::string both[]{options.out + ".train", options.out + ".valid"};
    if (!options.force)
        for (const std::string& prefix : both) refuse_to_overwrite(prefix);
    const std::filesystem::path directory = std::filesystem::path(options.out).parent_path();
    std::error_code error;
    if (!directory.empty()) std::filesystem::create_directories(directory, error);
    if (error)
        throw Error(Exit::data,
                    fmt::format("{}: cannot create: {}", directory.string(), error.message()));

    std::deque<TokenFileWriter> writers;
    for (const std::string& prefix : prefixes) writers.emplace_back(prefix, type);
    DocumentReader reader(options.documents);
    TokenizeSummary summary;
    std::vector<Document> held;
    int64_t held_bytes = 0;
    const auto write_held = [&] {
        const std::vector<Ids> ids = encode_all(*tokenizer, held, options.threads);
        for (size_t i = 0; i < held.size(); ++i)
            writers[held[i].held_out ? 1 : 0].add_document(ids[i]);
        held.clear();
        held_bytes = 0;
        if (options.progress) options.progress(reader.bytes_read(), reader.total_bytes());
    };
    int64_t n_documents = 0;
    for (Document document; reader.next(document);) {
        const int64_t size = std::ssize(document.text);
        if (options.max_bytes > 0 && summary.bytes + size > options.max_bytes) break;
        summary.bytes += size;
        held_bytes += size;
        ++n_documents;
        held.push_back(std::move(document));
        if (held_bytes >= kHeld) write_held();
    }
    write_held();

    for (size_t part = 0; part < writers.size(); ++part) {
        if (writers[part].n_documents() == 0)
            throw Error(Exit::data,
                        fmt::format("{} would be empty: the text has {} document{}. Cut it finer "
                                    "with --split-on blank-line, regex:RE or bytes:N, or change "
                                    "--valid-fraction (0: no held-out text){}",
                                    prefixes[part], n_documents, n_documents == 1 ? "" : "s",
                                    options.max_bytes > 0 ? " or --max-bytes" : ""));
        summary.parts.push_back(
            {prefixes[part], writers[part].n_documents(), writers[part].n_tokens()});
    }
    // No index stands beside the card of another tokenizer at any time.
    for (const std::string& prefix : both) std::filesystem::remove(prefix + ".idx", error);
    if (!holds_out) std::filesystem::remove(both[1] + ".bin", error);
    write_card(options.out, *tokenizer, options.tokenizer);
    for (TokenFileWriter& writer : writers) writer.commit();
    return summary;
}

}  // namespace fomoe
