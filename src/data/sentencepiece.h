// SentencePiece through its library: tokenizers of a model file, and how such a file is trained.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace fomoe {

inline constexpr const char* kSentencePieceFile = "tokenizer.model";

// Of a model with byte fallback that leaves the text as it is (no normalisation, no space before
// the text), any bytes are encoded, and decoding gives them back: what is no UTF-8, and the
// character by which SentencePiece writes a space, become byte tokens. Other models encode as their
// library does. The model's </s> ends a document. Throws Error(data) that names the file.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path);

enum class PieceModel { bpe, unigram };

// The bytes of a model file of `size` ids: <unk>, <s>, </s>, 256 bytes, then pieces that are
// learned from the lines. The same lines give the same file. Throws Error(usage) where the library
// refuses.
std::string train_sentencepiece(std::vector<std::string> lines, int size, PieceModel model);

// Bytes of the first character if it is one of UTF-8, else 0.
size_t utf8_length(std::string_view text);

}  // namespace fomoe
