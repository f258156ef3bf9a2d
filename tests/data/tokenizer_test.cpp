#include "data/tokenizer.h"

#include <catch2/catch.hpp>
#include <cstdio>
#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "data/sentencepiece.h"
#include "data/token_table.h"
#include "support/temporary_directory.h"

using namespace fomoe;
using Catch::Contains;

namespace {

// Lines of words that follow from their number.
std::vector<std::string> lines() {
    const char* words[] = {"the", "kernel", "reads", "a",    "page",       "of",        "memory",
                           "and", "writes", "naïve", "2026", "  indented", "driver(s)", "Straße"};
    std::vector<std::string> all;
    for (uint64_t i = 0; i < 400; ++i) {
        std::string line;
        for (uint64_t k = 0; k < 9; ++k)
            line += (k > 0 ? " " : "") + std::string(words[(i * i + 7 * k * i + 3 * k) % 14]);
        all.push_back(line);
    }
    return all;
}

std::string any_bytes(uint64_t seed, size_t n) {
    std::string bytes;
    for (size_t i = 0; i < n; ++i) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        bytes += static_cast<char>(seed >> 33);
    }
    return bytes;
}

std::string error_of(const std::function<void()>& call, Exit exit = Exit::data) {
    try {
        call();
    } catch (const Error& error) {
        CHECK(error.exit == exit);
        return error.what();
    }
    return "no error";
}

void check_round_trip(const Tokenizer& tokenizer, const std::string& text) {
    const std::vector<int32_t> ids = tokenizer.encode(text);
    CHECK(tokenizer.decode(ids) == text);
    size_t bytes = 0;
    std::string pieces;
    for (const int32_t id : ids) {
        REQUIRE(0 <= id);
        REQUIRE(id < tokenizer.size());
        CHECK(id != tokenizer.end_of_document());
        bytes += tokenizer.byte_count(id);
        pieces += tokenizer.decode(std::span(&id, 1));
    }
    CHECK(bytes == text.size());
    CHECK(pieces == text);
}

}  // namespace

TEST_CASE("bytes are their own ids") {
    const auto tokenizer = make_tokenizer("bytes");
    std::string text;
    for (int i = 0; i < 256; ++i) text += static_cast<char>(i);
    std::vector<int32_t> tokens = tokenizer->encode(text);
    REQUIRE(tokens.size() == 256);
    for (int i = 0; i < 256; ++i) CHECK(tokens[i] == i);
    tokens.push_back(tokenizer->end_of_document());
    tokens.push_back(300);
    CHECK(tokenizer->decode(tokens) == text);
    CHECK(tokenizer->byte_count('a') == 1);
    CHECK(tokenizer->byte_count(tokenizer->end_of_document()) == 0);
    CHECK(tokenizer->end_of_document() < tokenizer->size());
}

TEST_CASE("the vocabulary is padded unless it is given") {
    ModelConfig model;
    CHECK(vocab_size(model) == 320);
    model.vocab_size = 32000;
    CHECK(vocab_size(model) == 32000);
    CHECK_THAT(error_of([] { make_tokenizer("words"); }, Exit::usage),
               Contains("there is no tokenizer words"));
}

TEST_CASE("SentencePiece gives back any bytes") {
    const TemporaryDirectory directory;
    for (const auto& [model, size] :
         {std::pair(PieceModel::bpe, 330), {PieceModel::unigram, 300}}) {
        const std::string bytes = train_sentencepiece(lines(), size, model);
        CHECK(bytes == train_sentencepiece(lines(), size, model));
        const std::string path = directory / (std::to_string(size) + ".model");
        atomic_write_file(path, bytes);
        const auto tokenizer = make_tokenizer(path);
        CHECK(tokenizer->name() == std::string("sentencepiece"));
        CHECK(tokenizer->size() == size);
        CHECK(tokenizer->end_of_document() == 2);
        // It has learned something.
        CHECK(tokenizer->encode("the kernel reads a page of memory").size() < 30);
        for (const std::string& line : lines()) check_round_trip(*tokenizer, line);
        for (const std::string text :
             {"", " ", "  two  spaces  ", "\n\n\tlines\r\n end \n", "a\xe2\x96\x81 b\xe2\x96\x81",
              "</s> <s> <unk> <0x0A>", "\xef\xac\x81 \xef\xbc\xa1 e\xcc\x81 \xc2\xa0",
              "\xf0\x9f\x98\x80 \xe4\xb8\xad", "\xff\xfe broken \xc3", "\xed\xa0\x80\xc0\x80"})
            check_round_trip(*tokenizer, text);
        check_round_trip(*tokenizer, std::string("\0 nul \0", 7));
        for (uint64_t seed = 0; seed < 20; ++seed)
            check_round_trip(*tokenizer, any_bytes(seed, 300) + lines()[seed]);
        // A text in lines has the ids of its lines.
        std::vector<int32_t> joined = tokenizer->encode("the kernel\n");
        const std::vector<int32_t> second = tokenizer->encode(" of memory");
        joined.insert(joined.end(), second.begin(), second.end());
        CHECK(tokenizer->encode("the kernel\n of memory") == joined);

        // The directory of a model has what it needs.
        for (const auto& [name, text] : tokenizer->files())
            atomic_write_file(directory / name, text);
        const auto copy = make_tokenizer(directory.path());
        CHECK(copy->hash() == tokenizer->hash());
        ModelConfig config;
        config.tokenizer = path;
        CHECK(vocab_size(config) == (size == 330 ? 384 : 320));
        // A run keeps what it has read.
        std::filesystem::remove(path);
        CHECK(known_tokenizer(path).files() == tokenizer->files());
        config.vocab_size = 290;
        CHECK_THAT(error_of([&] { vocab_size(config); }, Exit::usage),
                   Contains("model.vocab_size: 290 is less than the "));
    }
}

TEST_CASE("what is no SentencePiece model, and what cannot be trained, is refused") {
    const TemporaryDirectory directory;
    atomic_write_file(directory / "x.model", "no model at all");
    CHECK_THAT(error_of([&] { make_tokenizer(directory / "x.model"); }),
               Contains("x.model is not a SentencePiece model"));
    CHECK_THAT(error_of([&] { make_tokenizer(directory.path()); }),
               Contains("has neither token_table.json nor tokenizer.model"));
    CHECK_THAT(
        error_of([] { train_sentencepiece({"a b"}, 5000, PieceModel::unigram); }, Exit::usage),
        Contains("SentencePiece cannot train"));
}

TEST_CASE("a table of tokens counts and decodes, and does not encode") {
    const TemporaryDirectory directory;
    const std::string json = R"({"model": {}})";
    atomic_write_file(directory / "tokenizer.json", json);
    const auto put = [&](const std::string& text) {
        std::string table = text;
        const std::string hash = "HASH";
        char hex[17];
        std::snprintf(hex, sizeof hex, "%016llx",
                      static_cast<unsigned long long>(hash_bytes(json.data(), json.size())));
        if (const size_t at = table.find(hash); at != table.npos)
            table.replace(at, hash.size(), hex);
        atomic_write_file(directory / kTokenTable, table);
    };
    put(R"({"kind": "hugging_face", "end_of_document": 0, "tokenizer_json_xxh3": "HASH",
            "tokens": ["", "20", "6162", "c3"]})");
    const auto tokenizer = make_tokenizer(directory.path());
    CHECK(tokenizer->size() == 4);
    CHECK(tokenizer->decode(std::vector<int32_t>{2, 1, 3, 0, 9, -1}) == "ab \xc3");
    CHECK(tokenizer->byte_count(2) == 2);
    CHECK_THAT(error_of([&] { tokenizer->encode("ab"); }, Exit::usage), Contains("token ids"));
    CHECK(tokenizer->files().size() == 2);
    for (const char* broken :
         {"", "{}", "[1]", R"({"kind": "hugging_face", "end_of_document": 0,
              "tokenizer_json_xxh3": "HASH", "tokens": ["2"]})",
          R"({"kind": "hugging_face", "end_of_document": 0, "tokenizer_json_xxh3": "HASH",
              "tokens": [1]})",
          R"({"kind": "hugging_face", "end_of_document": 0.5,
              "tokenizer_json_xxh3": "HASH", "tokens": ["20"]})",
          R"({"kind": "other", "end_of_document": 0, "tokenizer_json_xxh3": "HASH",
              "tokens": ["20"]})"}) {
        put(broken);
        CHECK_THAT(error_of([&] { make_tokenizer(directory.path()); }),
                   Contains("token_table.json is not a table of tokens"));
    }
    // 2^32 would be 0 in fewer bits.
    for (const std::string end : {"1", "4294967296"}) {
        put(R"({"kind": "hugging_face", "tokenizer_json_xxh3": "HASH", "tokens": ["20"],
                "end_of_document": )" +
            end + "}");
        CHECK_THAT(error_of([&] { make_tokenizer(directory.path()); }),
                   Contains("end of documents"));
    }
    put(R"({"kind": "hugging_face", "end_of_document": 0, "tokenizer_json_xxh3": "0",
            "tokens": ["20"]})");
    CHECK_THAT(error_of([&] { make_tokenizer(directory.path()); }),
               Contains("another tokenizer.json"));
}
