#include "data/token_file.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "base/error.h"

namespace fomoe {
namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr uint64_t kVersion = 1;
// magic, version u64, type u8, number of sequences u64, number of document bounds u64
constexpr size_t kHeaderBytes = 9 + 8 + 1 + 8 + 8;

// The arrays of the index are not aligned.
template <class T>
T load(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

int64_t load_i64(const std::byte* array, int64_t i) { return load<int64_t>(array + 8 * i); }
int32_t load_i32(const std::byte* array, int64_t i) { return load<int32_t>(array + 4 * i); }

// Calls f with a value of the C++ type of the tokens.
template <class F>
auto with_type(TokenType type, F f) {
    switch (type) {
        case TokenType::u8:
            return f(uint8_t{});
        case TokenType::i8:
            return f(int8_t{});
        case TokenType::i16:
            return f(int16_t{});
        case TokenType::i32:
            return f(int32_t{});
        case TokenType::i64:
            return f(int64_t{});
        case TokenType::u16:
            return f(uint16_t{});
    }
    throw Error(Exit::internal, "a token type that does not exist");
}

bool is_token_type(uint8_t code) { return (code >= 1 && code <= 5) || code == 8; }

}  // namespace

int size_of(TokenType type) {
    return with_type(type, [](auto value) { return static_cast<int>(sizeof value); });
}

const char* name_of(TokenType type) {
    switch (type) {
        case TokenType::u8:
            return "u8";
        case TokenType::i8:
            return "i8";
        case TokenType::i16:
            return "i16";
        case TokenType::i32:
            return "i32";
        case TokenType::i64:
            return "i64";
        case TokenType::u16:
            return "u16";
    }
    return "?";
}

TokenFile::TokenFile(const std::string& prefix)
    : prefix_(prefix), index_(prefix + ".idx"), tokens_(RangeFile::for_reading(prefix + ".bin")) {
    const std::byte* at = index_.data();
    if (index_.size() < kHeaderBytes || std::memcmp(at, kMagic, sizeof kMagic) != 0)
        fail("is not a Megatron index; make token files with fomoe-data tokenize");
    const uint64_t version = load<uint64_t>(at + 9);
    if (version != kVersion) fail(fmt::format("has version {}; {} is known", version, kVersion));
    const uint8_t code = load<uint8_t>(at + 17);
    if (!is_token_type(code))
        fail(
            fmt::format("says that tokens have type {}{}, which is not an integer type; this is "
                        "no text",
                        code,
                        code == 6   ? " (f64)"
                        : code == 7 ? " (f32)"
                                    : ""));
    type_ = static_cast<TokenType>(code);
    const uint64_t n_sequences = load<uint64_t>(at + 18), n_bounds = load<uint64_t>(at + 26);
    // Divided before they are multiplied, so that no foreign number overflows.
    const size_t room = index_.size() - kHeaderBytes;
    if (n_sequences > room / 12 || n_bounds > (room - 12 * n_sequences) / 8)
        fail(
            fmt::format("is truncated: {} bytes do not hold {} sequences and {} document bounds; "
                        "make the token files again",
                        index_.size(), n_sequences, n_bounds));
    const size_t behind = room - 12 * n_sequences - 8 * n_bounds;
    if (behind > 0 && behind == n_sequences)
        fail("has modes of its sequences: it is multimodal, and only text is trained on");
    if (behind > 0)
        fail(
            fmt::format("goes on for {} bytes behind its document bounds; make the token files "
                        "again",
                        behind));
    if (n_bounds == 0) fail("has no document bounds; make the token files again");
    n_sequences_ = static_cast<int64_t>(n_sequences);
    n_documents_ = static_cast<int64_t>(n_bounds) - 1;
    lengths_ = at + kHeaderBytes;
    pointers_ = lengths_ + 4 * n_sequences;
    documents_ = pointers_ + 8 * n_sequences;
    check_index();
}

void TokenFile::check_index() {
    const int64_t size = size_of(type_);
    int64_t bytes = 0;
    for (int64_t i = 0; i < n_sequences_; ++i) {
        const int64_t length = load_i32(lengths_, i);
        if (length < 0) fail(fmt::format("gives sequence {} the length {}", i, length));
        if (load_i64(pointers_, i) != bytes)
            fail(
                fmt::format("puts sequence {} at byte {}; sequences must follow each other, and "
                            "this one would start at {}",
                            i, load_i64(pointers_, i), bytes));
        bytes += length * size;
    }
    n_tokens_ = bytes / size;
    int64_t before = 0;
    for (int64_t d = 0; d <= n_documents_; ++d) {
        const int64_t bound = load_i64(documents_, d);
        if (bound < before || (d == 0 && bound != 0) || bound > n_sequences_ ||
            (d == n_documents_ && bound != n_sequences_))
            fail(fmt::format("has {} as document bound {}, of {} sequences", bound, d,
                             n_sequences_));
        before = bound;
    }
    if (tokens_.bytes() != bytes)
        throw Error(Exit::data,
                    fmt::format("{}: has {} bytes where {} announces {}; one of the two is "
                                "truncated or of another data set: make the token files again",
                                tokens_.path(), tokens_.bytes(), index_.path(), bytes));
}

void TokenFile::fail(const std::string& why) const {
    throw Error(Exit::data, fmt::format("{}: {}", index_.path(), why));
}

int64_t TokenFile::document_begin(int64_t d) const {
    FOMOE_CHECK(0 <= d && d <= n_documents_, "document ", d, " of ", n_documents_);
    const int64_t sequence = load_i64(documents_, d);
    return sequence == n_sequences_ ? n_tokens_ : load_i64(pointers_, sequence) / size_of(type_);
}

int64_t TokenFile::document_of(int64_t token) const {
    // The last document that begins at or before the token; empty ones before it begin there too.
    int64_t low = 0, high = n_documents_;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (document_begin(middle) <= token ? low : high) = middle;
    }
    return low;
}

int64_t TokenFile::count_document_ends(int64_t begin, int64_t end) const {
    if (begin >= end || n_documents_ == 0) return 0;
    int64_t count = 0;
    for (int64_t d = document_of(begin); d < n_documents_; ++d) {
        const int64_t first = document_begin(d), last = document_begin(d + 1) - 1;
        if (last >= end) break;
        if (last >= first && last >= begin) ++count;
    }
    return count;
}

void TokenFile::read(int64_t begin, std::span<int32_t> out, int vocab_size) const {
    const int64_t n = static_cast<int64_t>(out.size());
    FOMOE_CHECK(0 <= begin && begin + n <= n_tokens_, prefix_, ": tokens ", begin, "+", n, " of ",
                n_tokens_);
    with_type(type_, [&](auto value) {
        using T = decltype(value);
        constexpr int64_t kSize = sizeof(T);
        std::vector<T> ids(n);
        tokens_.read(begin * kSize, ids.data(), n * kSize);
        for (int64_t i = 0; i < n; ++i) {
            const int64_t id = ids[i];
            if (id < 0 || id >= vocab_size)
                throw Error(Exit::data,
                            fmt::format("{}: token {} has id {}, outside of the vocabulary of {}; "
                                        "raise model.vocab_size or make the token files with the "
                                        "tokenizer of model.tokenizer",
                                        tokens_.path(), begin + i, id, vocab_size));
            out[i] = static_cast<int32_t>(id);
        }
    });
}

void TokenFile::check_tokens(int vocab_size, int64_t most) const {
    const bool all_fit = (type_ == TokenType::u8 && vocab_size >= 1 << 8) ||
                         (type_ == TokenType::u16 && vocab_size >= 1 << 16);
    if (all_fit) return;
    std::vector<int32_t> piece(1 << 16);
    const int64_t size = static_cast<int64_t>(piece.size()), n = std::min(n_tokens_, most);
    for (int64_t begin = 0; begin < n; begin += size)
        read(begin, std::span(piece).first(std::min(size, n - begin)), vocab_size);
}

TokenFileWriter::TokenFileWriter(const std::string& prefix, TokenType type)
    : prefix_(prefix), type_(type), tokens_(prefix + ".bin") {}

void TokenFileWriter::add_document(std::span<const int32_t> tokens) {
    if (tokens.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
        throw Error(Exit::data,
                    fmt::format("{}: document {} has {} tokens, more than the format holds; split "
                                "the text into smaller documents",
                                prefix_, n_documents(), tokens.size()));
    with_type(type_, [&](auto value) {
        using T = decltype(value);
        std::vector<T> ids(tokens.size());
        for (size_t i = 0; i < tokens.size(); ++i) {
            ids[i] = static_cast<T>(tokens[i]);
            FOMOE_CHECK(static_cast<int64_t>(ids[i]) == tokens[i], "id ", tokens[i], " as ",
                        name_of(type_));
        }
        tokens_.write(ids.data(), ids.size() * sizeof(T));
    });
    lengths_.push_back(static_cast<int32_t>(tokens.size()));
    n_tokens_ += static_cast<int64_t>(tokens.size());
}

void TokenFileWriter::commit() {
    AtomicFile index(prefix_ + ".idx");
    const auto put = [&](auto value) { index.write(&value, sizeof value); };
    index.write(kMagic, sizeof kMagic);
    put(kVersion);
    put(static_cast<uint8_t>(type_));
    put(static_cast<uint64_t>(lengths_.size()));
    put(static_cast<uint64_t>(lengths_.size() + 1));
    index.write(lengths_.data(), lengths_.size() * sizeof(int32_t));
    int64_t pointer = 0;
    for (int32_t length : lengths_) {
        put(pointer);
        pointer += static_cast<int64_t>(length) * size_of(type_);
    }
    for (int64_t d = 0; d <= n_documents(); ++d) put(d);
    // The index comes last: a pair with an index is complete.
    tokens_.commit();
    index.commit();
}

}  // namespace fomoe
