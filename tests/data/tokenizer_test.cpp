#include "data/tokenizer.h"

#include <catch2/catch.hpp>

#include "base/error.h"

using namespace fomoe;

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
    CHECK_THROWS_AS(make_tokenizer("words"), Error);
}
