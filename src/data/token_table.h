// Tokenizers that encode elsewhere, known here by a table of each id's bytes: what
// tools/tokenize_hf.py makes of a Hugging Face tokenizer.
#pragma once

#include <memory>

#include "data/tokenizer.h"

namespace fomoe {

// {"kind": "hugging_face", "end_of_document": 0, "tokenizer_json_xxh3": "0123456789abcdef",
// "tokens": ["", "21", ...]}: the hash is that of tokenizer.json beside it, the bytes are in hex.
inline constexpr const char* kTokenTable = "token_table.json";

// Of a directory with a table and the tokenizer's own files. Throws Error(data) that names the
// file.
std::unique_ptr<Tokenizer> load_token_table(const std::string& directory);

}  // namespace fomoe
