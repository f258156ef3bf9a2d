#include "data/tokenizer_card.h"

#include <fmt/format.h>

#include <climits>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

std::string file_of(const std::string& prefix) { return prefix + ".tokenizer.json"; }

int whole(const ordered_json& value) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT_MAX)
        throw std::invalid_argument("no whole number, or a large one");
    return value.get<int>();
}

uint64_t hash_of(const std::string& digits) {
    if (digits.size() != 16 || digits.find_first_not_of("0123456789abcdef") != digits.npos)
        throw std::invalid_argument("no hash");
    return std::stoull(digits, nullptr, 16);
}

// Where the card says that the tokenizer lies.
std::string location(const std::string& prefix, const TokenizerCard& card) {
    if (card.path.empty()) return card.kind;
    return (fs::path(prefix).parent_path() / card.path).lexically_normal();
}

std::string description(const std::string& prefix, const TokenizerCard& card) {
    return fmt::format("{} of {} ids, xxh3 {:016x} ({})", card.kind, card.size, card.xxh3,
                       location(prefix, card));
}

}  // namespace

std::optional<TokenizerCard> read_card(const std::string& prefix) {
    const std::string file = file_of(prefix);
    if (!fs::exists(file)) return {};
    try {
        const ordered_json json = ordered_json::parse(read_file(file));
        return TokenizerCard{.kind = json.at("kind"),
                             .size = whole(json.at("size")),
                             .end_of_document = whole(json.at("end_of_document")),
                             .xxh3 = hash_of(json.at("xxh3").get<std::string>()),
                             .path = json.at("path")};
    } catch (const std::exception&) {
        throw Error(Exit::data, fmt::format("{}: does not say which tokenizer made the files; make "
                                            "them again, or remove it to trust them",
                                            file));
    }
}

void write_card(const std::string& prefix, const Tokenizer& tokenizer, const std::string& name) {
    const bool is_file = name != tokenizer.name();
    const fs::path from = fs::absolute(prefix).lexically_normal().parent_path();
    const ordered_json json{
        {"kind", tokenizer.name()},
        {"size", tokenizer.size()},
        {"end_of_document", tokenizer.end_of_document()},
        {"xxh3", fmt::format("{:016x}", tokenizer.hash())},
        {"path",
         is_file ? fs::absolute(name).lexically_normal().lexically_proximate(from).string() : ""}};
    atomic_write_file(file_of(prefix), json.dump(2) + "\n");
}

void check_card(const std::string& source, const std::string& prefix, const Tokenizer& tokenizer) {
    const std::optional<TokenizerCard> card = read_card(prefix);
    if (!card || card->xxh3 == tokenizer.hash()) return;
    throw Error(Exit::data,
                fmt::format("{}: {} was made with the tokenizer {}; the model's is {}. "
                            "Set model.tokenizer, or make the token files with the "
                            "model's tokenizer",
                            source, prefix, description(prefix, *card), tokenizer.description()));
}

std::unique_ptr<Tokenizer> tokenizer_of(const std::string& prefix) {
    const std::optional<TokenizerCard> card = read_card(prefix);
    if (!card) return make_tokenizer("bytes");
    const std::string where = location(prefix, *card);
    const bool there = card->path.empty() || fs::exists(where);
    std::unique_ptr<Tokenizer> tokenizer = there ? make_tokenizer(where) : nullptr;
    if (tokenizer && tokenizer->hash() == card->xxh3) return tokenizer;
    throw Error(Exit::data, fmt::format("{} was made with the tokenizer {}, which does not lie "
                                        "there; put it back",
                                        prefix, description(prefix, *card)));
}

}  // namespace fomoe
