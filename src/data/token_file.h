// Token files: Megatron's indexed datasets, PREFIX.bin with the ids and PREFIX.idx with the bounds
// of the documents. Errors are Error(Exit::data) that name the file.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/range_file.h"

namespace fomoe {

// The integer types of the format, by their codes.
enum class TokenType : uint8_t { u8 = 1, i8 = 2, i16 = 3, i32 = 4, i64 = 5, u16 = 8 };
int size_of(TokenType type);
const char* name_of(TokenType type);

class TokenFile {
public:
    explicit TokenFile(const std::string& prefix);

    const std::string& prefix() const { return prefix_; }
    TokenType type() const { return type_; }
    int64_t n_tokens() const { return n_tokens_; }
    int64_t n_documents() const { return n_documents_; }
    // First token of document d; n_tokens() for d = n_documents().
    int64_t document_begin(int64_t d) const;
    // The document that holds the token.
    int64_t document_of(int64_t token) const;
    // Documents that end at tokens [begin, end): those whose last token lies there.
    int64_t count_document_ends(int64_t begin, int64_t end) const;

    // Tokens [begin, begin + out.size()). An id below 0 or not below vocab_size is an error that
    // says where it stands.
    void read(int64_t begin, std::span<int32_t> out, int vocab_size) const;
    // Looks for ids outside of the vocabulary in the first `most` tokens.
    void check_tokens(int vocab_size, int64_t most = INT64_MAX) const;

private:
    std::string prefix_;
    MappedFile index_;
    RangeFile tokens_;
    TokenType type_ = TokenType::i32;
    int64_t n_sequences_ = 0, n_documents_ = 0, n_tokens_ = 0;
    const std::byte *lengths_ = nullptr, *pointers_ = nullptr, *documents_ = nullptr;

    [[noreturn]] void fail(const std::string& why) const;
    void check_index();
};

// Writes PREFIX.bin and PREFIX.idx; they appear only with commit().
class TokenFileWriter {
public:
    TokenFileWriter(const std::string& prefix, TokenType type);

    void add_document(std::span<const int32_t> tokens);
    int64_t n_documents() const { return static_cast<int64_t>(lengths_.size()); }
    int64_t n_tokens() const { return n_tokens_; }
    void commit();

private:
    std::string prefix_;
    TokenType type_;
    AtomicFile tokens_;
    std::vector<int32_t> lengths_;
    int64_t n_tokens_ = 0;
};

}  // namespace fomoe
