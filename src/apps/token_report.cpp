#include "apps/token_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/token_file.h"
#include "data/tokenizer_card.h"

namespace fomoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMostIds = std::numeric_limits<int32_t>::max();
constexpr int64_t kPiece = 1 << 16;  // tokens read at once
constexpr int64_t kExcerpt = 64;     // tokens of a document that are shown
constexpr int kQuantiles[] = {0, 5, 25, 50, 75, 95, 100};

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

// Beside both parts stands one card.
std::string card_prefix(std::string prefix) {
    for (const char* part : {".train", ".valid"})
        if (prefix.ends_with(part)) prefix.resize(prefix.size() - 6);
    return prefix;
}

int32_t largest_id(const TokenFile& file) {
    int32_t largest = -1;
    std::vector<int32_t> piece(kPiece);
    for (int64_t begin = 0; begin < file.n_tokens(); begin += kPiece) {
        const auto part = std::span(piece).first(std::min(kPiece, file.n_tokens() - begin));
        file.read(begin, part, kMostIds);
        largest = std::max(largest, *std::ranges::max_element(part));
    }
    return largest;
}

Json lengths_of(const TokenFile& file) {
    std::vector<int64_t> lengths(file.n_documents());
    for (int64_t d = 0; d < file.n_documents(); ++d)
        lengths[d] = file.document_begin(d + 1) - file.document_begin(d);
    std::ranges::sort(lengths);
    Json quantiles = Json::object();
    for (const int percent : kQuantiles)
        quantiles[std::to_string(percent)] =
            lengths.empty() ? 0 : lengths[(lengths.size() - 1) * percent / 100];
    return quantiles;
}

// The starts of documents that are spread evenly.
Json texts_of(const TokenFile& file, const Tokenizer& tokenizer, int documents) {
    Json texts = Json::array();
    const int64_t n = std::min<int64_t>(documents, file.n_documents());
    for (int64_t i = 0; i < n; ++i) {
        const int64_t d = i * file.n_documents() / n, begin = file.document_begin(d);
        std::vector<int32_t> ids(std::min(kExcerpt, file.document_begin(d + 1) - begin));
        file.read(begin, ids, kMostIds);
        texts.push_back({{"document", d}, {"text", tokenizer.decode(ids)}});
    }
    return texts;
}

Json report(const std::string& prefix, int documents) {
    const TokenFile file(prefix);
    const int32_t largest = largest_id(file);
    Json found{{"prefix", prefix},          {"documents", file.n_documents()},
               {"tokens", file.n_tokens()}, {"type", name_of(file.type())},
               {"largest_id", largest},     {"document_tokens", lengths_of(file)},
               {"tokenizer", nullptr},      {"texts", Json::array()}};
    const std::string card = card_prefix(prefix);
    // Files without a card may be anybody's.
    const std::optional<TokenizerCard> about = read_card(card);
    if (!about && largest >= kByteTokens) return found;
    std::unique_ptr<Tokenizer> tokenizer;
    try {
        tokenizer = tokenizer_of(card);
    } catch (const Error&) {
        found["tokenizer"] = {{"kind", about->kind},
                              {"size", about->size},
                              {"xxh3", fmt::format("{:016x}", about->xxh3)},
                              {"missing", about->path}};
        return found;
    }
    found["tokenizer"] = {{"kind", tokenizer->name()},
                          {"size", tokenizer->size()},
                          {"xxh3", fmt::format("{:016x}", tokenizer->hash())}};
    if (!about) found["tokenizer"]["guessed"] = true;
    found["texts"] = texts_of(file, *tokenizer, documents);
    return found;
}

// On one line.
std::string shown(const std::string& text) {
    std::string line;
    for (const char c : text)
        line += c == '\n' ? "\\n" : static_cast<unsigned char>(c) < 0x20 ? " " : std::string(1, c);
    return line;
}

std::string tokenizer_text(const Json& about) {
    if (about.is_null()) return "unknown; there is no card of it beside the files";
    std::string text = fmt::format("{} of {} ids, xxh3 {}", about["kind"].get<std::string>(),
                                   about["size"].get<int>(), about["xxh3"].get<std::string>());
    if (about.contains("guessed")) text += ", as it seems; there is no card of it";
    if (about.contains("missing"))
        text += fmt::format("; it does not lie at {}", about["missing"].get<std::string>());
    return text;
}

std::string text_of(const Json& found) {
    std::string lengths;
    for (const auto& [percent, length] : found["document_tokens"].items())
        lengths += fmt::format("{}{}: {}", lengths.empty() ? "" : ", ",
                               percent == "0"     ? "least"
                               : percent == "100" ? "most"
                                                  : percent + " %",
                               length.get<int64_t>());
    std::string text = fmt::format(
        "{}\n  {} documents, {} tokens of type {}, largest id {}\n  tokens of a document: {}\n"
        "  tokenizer: {}\n",
        found["prefix"].get<std::string>(), found["documents"].get<int64_t>(),
        found["tokens"].get<int64_t>(), found["type"].get<std::string>(),
        found["largest_id"].get<int>(), lengths, tokenizer_text(found["tokenizer"]));
    for (const Json& one : found["texts"])
        text += fmt::format("  document {}: {}\n", one["document"].get<int64_t>(),
                            shown(one["text"].get<std::string>()));
    return text;
}

}  // namespace

void print_token_files(const std::string& name, int documents, bool json) {
    Json all = Json::array();
    for (const std::string& prefix : prefixes_of(name)) all.push_back(report(prefix, documents));
    if (json)
        fmt::print("{}\n", all.dump(2, ' ', false, Json::error_handler_t::replace));
    else
        for (const Json& one : all) fmt::print("{}", text_of(one));
}

}  // namespace fomoe
