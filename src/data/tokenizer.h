// Text <-> token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"

namespace fomoe {

class Tokenizer {
public:
    virtual ~Tokenizer() = default;
    virtual const char* name() const = 0;
    virtual int size() const = 0;  // ids are 0 to size - 1
    virtual int end_of_document() const = 0;
    virtual std::vector<int32_t> encode(std::string_view text) const = 0;
    // Ids without text (the end of a document, padding) give nothing.
    virtual std::string decode(std::span<const int32_t> tokens) const = 0;
    // Bytes of text that the token stands for.
    virtual int byte_count(int32_t token) const = 0;
};

// `name` as in model.tokenizer.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name);

// Rows of the embedding: model.vocab_size, or the tokenizer's size padded to a multiple of 64.
int vocab_size(const ModelConfig& model);

}  // namespace fomoe
