#include "data/tokenizer.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/error.h"
#include "base/file.h"
#include "data/sentencepiece.h"
#include "data/token_table.h"

namespace fomoe {
namespace {

constexpr int kVocabMultiple = 64;
constexpr std::string_view kBytes = "bytes";

constexpr std::array<char, 256> all_bytes() {
    std::array<char, 256> bytes{};
    for (int i = 0; i < 256; ++i) bytes[i] = static_cast<char>(i);
    return bytes;
}
constexpr std::array<char, 256> kAllBytes = all_bytes();

// A byte is its own id; 256 ends a document.
class BytesTokenizer : public Tokenizer {
public:
    const char* name() const override { return kBytes.data(); }
    int size() const override { return kByteTokens; }
    int end_of_document() const override { return 256; }
    std::vector<int32_t> encode(std::string_view text) const override {
        std::vector<int32_t> tokens(text.size());
        for (size_t i = 0; i < text.size(); ++i) tokens[i] = static_cast<unsigned char>(text[i]);
        return tokens;
    }
    std::string_view bytes(int32_t token) const override {
        if (token < 0 || token >= 256) return {};
        return {&kAllBytes[token], 1};
    }
    uint64_t hash() const override { return hash_bytes(kBytes.data(), kBytes.size()); }
};

}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> tokens) const {
    std::string text;
    for (int32_t token : tokens) text += bytes(token);
    return text;
}

std::string Tokenizer::description() const {
    return fmt::format("{} of {} ids, xxh3 {:016x}", name(), size(), hash());
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name) {
    if (name == kBytes) return std::make_unique<BytesTokenizer>();
    const std::filesystem::path path(name);
    if (!std::filesystem::exists(path))
        throw Error(Exit::usage,
                    fmt::format("there is no tokenizer {}: bytes, a SentencePiece model, or a "
                                "directory that tools/tokenize_hf.py has made",
                                name));
    if (!std::filesystem::is_directory(path)) return load_sentencepiece(name);
    if (std::filesystem::exists(path / kTokenTable)) return load_token_table(name);
    if (std::filesystem::exists(path / kSentencePieceFile))
        return load_sentencepiece(path / kSentencePieceFile);
    throw Error(Exit::data, fmt::format("{}: has neither {} nor {}; tools/tokenize_hf.py makes the "
                                        "first of a Hugging Face tokenizer",
                                        name, kTokenTable, kSentencePieceFile));
}

const Tokenizer& known_tokenizer(const std::string& name) {
    static std::mutex mutex;
    static std::map<std::string, std::unique_ptr<Tokenizer>> known;
    const std::lock_guard lock(mutex);
    std::unique_ptr<Tokenizer>& found = known[name];
    if (!found) found = make_tokenizer(name);
    return *found;
}

int vocab_size(const ModelConfig& model) {
    // The config has been checked against the ids of `bytes`.
    if (model.vocab_size != 0 && model.tokenizer == kBytes) return model.vocab_size;
    const int size = known_tokenizer(model.tokenizer).size();
    if (model.vocab_size != 0 && model.vocab_size < size)
        throw Error(Exit::usage, fmt::format("model.vocab_size: {} is less than the {} ids of {}; "
                                             "0 takes its size",
                                             model.vocab_size, size, model.tokenizer));
    if (model.vocab_size != 0) return model.vocab_size;
    return (size + kVocabMultiple - 1) / kVocabMultiple * kVocabMultiple;
}

}  // namespace fomoe
