#include "data/tokenizer.h"

#include <fmt/format.h>

#include "base/error.h"

namespace fomoe {
namespace {

constexpr int kVocabMultiple = 64;

// A byte is its own id; 256 ends a document.
class BytesTokenizer : public Tokenizer {
public:
    const char* name() const override { return "bytes"; }
    int size() const override { return kByteTokens; }
    int end_of_document() const override { return 256; }
    std::vector<int32_t> encode(std::string_view text) const override {
        std::vector<int32_t> tokens(text.size());
        for (size_t i = 0; i < text.size(); ++i) tokens[i] = static_cast<unsigned char>(text[i]);
        return tokens;
    }
    std::string decode(std::span<const int32_t> tokens) const override {
        std::string text;
        for (int32_t token : tokens)
            if (byte_count(token) == 1) text += static_cast<char>(token);
        return text;
    }
    int byte_count(int32_t token) const override { return 0 <= token && token < 256 ? 1 : 0; }
};

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name) {
    if (name == "bytes") return std::make_unique<BytesTokenizer>();
    throw Error(Exit::usage, fmt::format("unknown tokenizer '{}'; there is bytes", name));
}

int vocab_size(const ModelConfig& model) {
    if (model.vocab_size != 0) return model.vocab_size;
    const int size = make_tokenizer(model.tokenizer)->size();
    return (size + kVocabMultiple - 1) / kVocabMultiple * kVocabMultiple;
}

}  // namespace fomoe
