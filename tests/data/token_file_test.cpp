#include "data/token_file.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "base/error.h"
#include "support/temporary_directory.h"

using namespace fomoe;

namespace {

const std::vector<std::vector<int32_t>> kDocuments = {{1, 2, 3}, {}, {4}, {5, 6, 7, 100}};

std::string write(const TemporaryDirectory& directory, TokenType type) {
    const std::string prefix = directory / "text";
    TokenFileWriter writer(prefix, type);
    for (const auto& document : kDocuments) writer.add_document(document);
    writer.commit();
    return prefix;
}

// The message of the error that opening or reading must give.
template <class F>
std::string error_of(F call) {
    try {
        call();
    } catch (const Error& error) {
        CHECK(error.exit == Exit::data);
        return error.what();
    }
    return "no error";
}

template <class T>
void put(std::string& bytes, size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

}  // namespace

TEST_CASE("what is written is read, in every type") {
    for (TokenType type : {TokenType::u8, TokenType::i8, TokenType::i16, TokenType::i32,
                           TokenType::i64, TokenType::u16}) {
        const TemporaryDirectory directory;
        const TokenFile file(write(directory, type));
        INFO(name_of(type));
        CHECK(file.type() == type);
        CHECK(file.n_tokens() == 8);
        REQUIRE(file.n_documents() == 4);
        const std::vector<int64_t> bounds = {0, 3, 3, 4, 8};
        for (int64_t d = 0; d <= 4; ++d) CHECK(file.document_begin(d) == bounds[d]);
        std::vector<int32_t> tokens(5);
        file.read(2, tokens, 257);
        CHECK(tokens == std::vector<int32_t>{3, 4, 5, 6, 7});
        CHECK(read_file(file.prefix() + ".bin").size() == 8u * size_of(type));
    }
}

TEST_CASE("documents are found by token") {
    const TemporaryDirectory directory;
    const TokenFile file(write(directory, TokenType::u16));
    const std::vector<int64_t> documents = {0, 0, 0, 2, 3, 3, 3, 3};
    for (int64_t t = 0; t < 8; ++t) CHECK(file.document_of(t) == documents[t]);
    // Documents end at tokens 2, 3 and 7.
    for (int64_t begin = 0; begin <= 8; ++begin)
        for (int64_t end = begin; end <= 8; ++end) {
            int64_t expected = 0;
            for (int64_t last : {2, 3, 7}) expected += begin <= last && last < end;
            INFO(begin << " to " << end);
            CHECK(file.count_document_ends(begin, end) == expected);
        }
}

TEST_CASE("the layout is Megatron's") {
    const TemporaryDirectory directory;
    const std::string prefix = write(directory, TokenType::u16);
    std::string expected("MMIDIDX\0\0", 9);
    const auto add = [&](auto value) {
        expected.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    add(uint64_t{1});
    add(uint8_t{8});
    add(uint64_t{4});
    add(uint64_t{5});
    for (int32_t length : {3, 0, 1, 4}) add(length);
    for (int64_t pointer : {0, 6, 6, 8}) add(pointer);
    for (int64_t d : {0, 1, 2, 3, 4}) add(d);
    CHECK(read_file(prefix + ".idx") == expected);
}

TEST_CASE("a document may have several sequences") {
    const TemporaryDirectory directory;
    const std::string prefix = write(directory, TokenType::u8);
    std::string index = read_file(prefix + ".idx");
    // Two documents: sequences 0 and 1, 2 and 3.
    put(index, 26, uint64_t{3});
    const size_t bounds = 34 + 4 * 12;
    put(index, bounds + 8, int64_t{2});
    put(index, bounds + 16, int64_t{4});
    atomic_write_file(prefix + ".idx", index.substr(0, bounds + 24));
    const TokenFile file(prefix);
    CHECK(file.n_documents() == 2);
    CHECK(file.document_begin(1) == 3);
    CHECK(file.document_of(7) == 1);
}

// As Megatron-LM's own builder (megatron/core/datasets/indexed_dataset.py) writes an index: tokens
// of each item, then end_document().
template <class T>
void write_as_megatron(const std::string& prefix, uint8_t code,
                       const std::vector<std::vector<std::vector<int>>>& documents) {
    std::string tokens, lengths, pointers, bounds, index("MMIDIDX\0\0", 9);
    const auto add = [](std::string& to, auto value) {
        to.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    uint64_t n_sequences = 0;
    add(bounds, int64_t{0});
    for (const auto& document : documents) {
        for (const auto& sequence : document) {
            add(lengths, static_cast<int32_t>(sequence.size()));
            add(pointers, static_cast<int64_t>(tokens.size()));
            for (const int token : sequence) add(tokens, static_cast<T>(token));
            ++n_sequences;
        }
        add(bounds, static_cast<int64_t>(n_sequences));
    }
    add(index, uint64_t{1});
    add(index, code);
    add(index, n_sequences);
    add(index, uint64_t{documents.size() + 1});
    atomic_write_file(prefix + ".bin", tokens);
    atomic_write_file(prefix + ".idx", index + lengths + pointers + bounds);
}

TEST_CASE("files of Megatron's builder load in every type, with documents of several sequences") {
    const std::vector<std::vector<std::vector<int>>> documents = {
        {{5, 6, 7}}, {{1}, {2, 3}, {}}, {}, {{100, 0}, {4}}};
    const std::vector<int32_t> all = {5, 6, 7, 1, 2, 3, 100, 0, 4};
    const std::vector<int64_t> begins = {0, 3, 6, 6, 9};
    const TemporaryDirectory directory;
    const std::string prefix = directory / "text";
    const auto check = [&](TokenType type) {
        const TokenFile file(prefix);
        CHECK(file.type() == type);
        REQUIRE(file.n_documents() == 4);
        for (int64_t d = 0; d <= 4; ++d) CHECK(file.document_begin(d) == begins[d]);
        std::vector<int32_t> tokens(file.n_tokens());
        file.read(0, tokens, 101);
        CHECK(tokens == all);
    };
    write_as_megatron<uint8_t>(prefix, 1, documents), check(TokenType::u8);
    write_as_megatron<int8_t>(prefix, 2, documents), check(TokenType::i8);
    write_as_megatron<int16_t>(prefix, 3, documents), check(TokenType::i16);
    write_as_megatron<int32_t>(prefix, 4, documents), check(TokenType::i32);
    write_as_megatron<int64_t>(prefix, 5, documents), check(TokenType::i64);
    write_as_megatron<uint16_t>(prefix, 8, documents), check(TokenType::u16);
    write_as_megatron<double>(prefix, 6, documents);
    CHECK_THAT(error_of([&] { TokenFile{prefix}; }), Catch::Contains("not an integer type"));
}

TEST_CASE("damaged files are refused, by name") {
    const TemporaryDirectory directory;
    const std::string prefix = write(directory, TokenType::u16);
    const std::string index = read_file(prefix + ".idx"), tokens = read_file(prefix + ".bin");
    const auto open_with = [&](const std::string& new_index, const std::string& new_tokens) {
        atomic_write_file(prefix + ".idx", new_index);
        atomic_write_file(prefix + ".bin", new_tokens);
        return error_of([&] { TokenFile{prefix}; });
    };
    const auto changed = [&](size_t at, auto value) {
        std::string copy = index;
        put(copy, at, value);
        return copy;
    };
    using Catch::Contains;
    CHECK(open_with(index, tokens) == "no error");
    for (size_t size = 0; size < index.size(); ++size)
        CHECK_THAT(open_with(index.substr(0, size), tokens), Contains("text.idx: "));
    CHECK_THAT(open_with(index, tokens.substr(0, 15)), Contains("text.bin: has 15 bytes"));
    CHECK_THAT(open_with(index, tokens + "xx"), Contains("truncated or of another data set"));
    CHECK_THAT(open_with("something else entirely, and long enough", tokens),
               Contains("is not a Megatron index"));
    CHECK_THAT(open_with(changed(9, uint64_t{2}), tokens), Contains("has version 2"));
    CHECK_THAT(open_with(changed(17, uint8_t{6}), tokens), Contains("type 6 (f64), which is not"));
    CHECK_THAT(open_with(changed(17, uint8_t{7}), tokens), Contains("type 7 (f32), which is not"));
    CHECK_THAT(open_with(changed(17, uint8_t{9}), tokens), Contains("type 9, which is not"));
    CHECK_THAT(open_with(index + std::string(4, '\0'), tokens), Contains("multimodal"));
    CHECK_THAT(open_with(index + std::string(8, '\0'), tokens), Contains("goes on for 8 bytes"));
    CHECK_THAT(open_with(changed(18, ~uint64_t{0}), tokens), Contains("is truncated"));
    CHECK_THAT(open_with(changed(26, uint64_t{1} << 61), tokens), Contains("is truncated"));
    CHECK_THAT(open_with(changed(34, int32_t{-3}), tokens), Contains("the length -3"));
    CHECK_THAT(open_with(changed(34, int32_t{4}), tokens), Contains("puts sequence 1 at byte 6"));
    CHECK_THAT(open_with(changed(34 + 48 + 8, int64_t{9}), tokens), Contains("document bound"));
    CHECK_THAT(open_with(changed(34 + 48, int64_t{-1}), tokens), Contains("document bound"));
}

TEST_CASE("ids outside of the vocabulary are found") {
    const TemporaryDirectory directory;
    const TokenFile file(write(directory, TokenType::i32));
    CHECK_NOTHROW(file.check_tokens(101));
    CHECK_THAT(error_of([&] { file.check_tokens(100); }),
               Catch::Contains("text.bin: token 7 has id 100, outside of the vocabulary of 100") &&
                   Catch::Contains("model.vocab_size"));
    std::vector<int32_t> tokens(7);
    CHECK_NOTHROW(file.read(0, tokens, 100));
    CHECK_NOTHROW(TokenFile(write(directory, TokenType::u8)).check_tokens(256));
    CHECK(error_of([&] { TokenFile(write(directory, TokenType::u8)).check_tokens(50); }) !=
          "no error");

    TokenFileWriter negative(directory / "negative", TokenType::i16);
    negative.add_document(std::vector<int32_t>{3, -1});
    negative.commit();
    CHECK_THAT(error_of([&] { TokenFile(directory / "negative").check_tokens(100); }),
               Catch::Contains("token 1 has id -1"));
}

TEST_CASE("a writer that is not committed leaves nothing") {
    const TemporaryDirectory directory;
    {
        TokenFileWriter writer(directory / "text", TokenType::u16);
        writer.add_document(std::vector<int32_t>{1});
    }
    CHECK(std::filesystem::is_empty(directory.path()));
    TokenFileWriter writer(directory / "text", TokenType::u8);
    CHECK_THROWS_AS(writer.add_document(std::vector<int32_t>{256}), Error);
}
