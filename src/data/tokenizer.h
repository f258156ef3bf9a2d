// Text <-> token ids.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace fomoe {

// Of any thread.
class Tokenizer {
public:
    virtual ~Tokenizer() = default;
    virtual const char* name() const = 0;  // "bytes", "sentencepiece" or "hugging_face"
    virtual int size() const = 0;          // ids are 0 to size - 1
    virtual int end_of_document() const = 0;
    // Throws Error(usage) where only another program can do it: `hugging_face`.
    virtual std::vector<int32_t> encode(std::string_view text) const = 0;
    // The bytes of text that the token stands for; none for the end of a document and padding, and
    // for ids that are none of its.
    virtual std::string_view bytes(int32_t token) const = 0;
    // Equal for equal tokenizers, wherever they lie.
    virtual uint64_t hash() const = 0;
    // What a model's directory needs of it, by file name; nothing for `bytes`. make_tokenizer takes
    // a directory with these files.
    virtual std::map<std::string, std::string> files() const { return {}; }

    std::string decode(std::span<const int32_t> tokens) const;
    bool knows(int32_t token) const { return token >= 0 && token < size(); }
    int byte_count(int32_t token) const { return static_cast<int>(bytes(token).size()); }
    // "sentencepiece of 8000 ids, xxh3 0123456789abcdef"
    std::string description() const;
};

// `name` as in model.tokenizer: "bytes" or a path. Throws Error(usage) where there is no such file,
// and Error(data) where it is no tokenizer.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name);

// The same, read once by a process: a run keeps the tokenizer that it has begun with, whatever
// happens to its file.
const Tokenizer& known_tokenizer(const std::string& name);

// Rows of the embedding: model.vocab_size, or the tokenizer's size padded to a multiple of 64.
// Throws Error(usage) where the tokenizer has more ids than rows.
int vocab_size(const ModelConfig& model);

}  // namespace fomoe
