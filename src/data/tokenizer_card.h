// PREFIX.tokenizer.json beside token files: which tokenizer made them, so that no model trains on
// the ids of another.
#pragma once

#include <optional>

#include "data/tokenizer.h"

namespace fomoe {

struct TokenizerCard {
    std::string kind;  // as Tokenizer::name()
    int size = 0, end_of_document = 0;
    uint64_t xxh3 = 0;
    std::string path;  // of the tokenizer, from the card's directory; empty: `bytes`
};

// PREFIX without .train or .valid; none where the files have no card, as those that Megatron makes.
// Throws Error(data) where it cannot be read.
std::optional<TokenizerCard> read_card(const std::string& prefix);
// `name` as in make_tokenizer.
void write_card(const std::string& prefix, const Tokenizer& tokenizer, const std::string& name);

// Throws Error(data) where the files have the card of another tokenizer. `source` says in the
// message who asks.
void check_card(const std::string& source, const std::string& prefix, const Tokenizer& tokenizer);

// The tokenizer that the files were made with: of the card, where it still lies there; `bytes`
// where there is no card. Throws Error(data).
std::unique_ptr<Tokenizer> tokenizer_of(const std::string& prefix);

}  // namespace fomoe
