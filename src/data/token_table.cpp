#include "data/token_table.h"

#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTokenizer = "tokenizer.json";
constexpr size_t kMostTokens = 1 << 24;

std::string bytes_of_hex(const std::string& hex) {
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2) {
        unsigned char byte = 0;
        const char* end = hex.data() + std::min(i + 2, hex.size());
        const auto read = std::from_chars(hex.data() + i, end, byte, 16);
        if (read.ptr != hex.data() + i + 2) throw std::invalid_argument(hex);
        bytes += static_cast<char>(byte);
    }
    return bytes;
}

class TableTokenizer : public Tokenizer {
public:
    explicit TableTokenizer(const fs::path& directory)
        : directory_(directory), table_(read_file(directory / kTokenTable)) {
        std::string hash;
        uint64_t end = 0;
        try {
            const json table = json::parse(table_);
            if (table.at("kind") != "hugging_face") throw std::invalid_argument("kind");
            if (!table.at("end_of_document").is_number_unsigned())
                throw std::invalid_argument("end_of_document");
            end = table["end_of_document"].get<uint64_t>();
            hash = table.at("tokenizer_json_xxh3").get<std::string>();
            for (const json& hex : table.at("tokens"))
                bytes_.push_back(bytes_of_hex(hex.get_ref<const std::string&>()));
        } catch (const std::exception&) {
            fail("is not a table of tokens");
        }
        if (bytes_.empty() || bytes_.size() > kMostTokens) fail("has no tokens, or too many");
        if (end >= bytes_.size()) fail("names an end of documents that is no id of it");
        end_ = static_cast<int>(end);
        const std::string own = fmt::format("{:016x}", hash_file(directory_ / kTokenizer));
        if (own != hash) fail("was made of another tokenizer.json than the one beside it");
        files_[kTokenTable] = table_;
        for (const char* name :
             {kTokenizer, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
              "vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json"})
            if (fs::exists(directory_ / name)) files_[name] = read_file(directory_ / name);
    }

    const char* name() const override { return "hugging_face"; }
    int size() const override { return static_cast<int>(bytes_.size()); }
    int end_of_document() const override { return end_; }
    std::vector<int32_t> encode(std::string_view) const override {
        throw Error(Exit::usage,
                    fmt::format("{}: only Python encodes with this tokenizer: give token ids "
                                "instead of text, or make token files with tools/tokenize_hf.py",
                                directory_.string()));
    }
    std::string_view bytes(int32_t token) const override {
        return token < 0 || token >= size() ? std::string_view() : bytes_[token];
    }
    uint64_t hash() const override { return hash_bytes(table_.data(), table_.size()); }
    std::map<std::string, std::string> files() const override { return files_; }

private:
    fs::path directory_;
    std::string table_;
    int end_ = 0;
    std::vector<std::string> bytes_;  // of each id
    std::map<std::string, std::string> files_;

    [[noreturn]] void fail(const char* why) const {
        throw Error(Exit::data, fmt::format("{} {}; make it again with tools/tokenize_hf.py",
                                            (directory_ / kTokenTable).string(), why));
    }
};

}  // namespace

std::unique_ptr<Tokenizer> load_token_table(const std::string& directory) {
    return std::make_unique<TableTokenizer>(directory);
}

}  // namespace fomoe
