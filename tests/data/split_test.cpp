#include "data/split.h"

#include <catch2/catch.hpp>
#include <numeric>

#include "base/error.h"

using namespace fomoe;

namespace {

using Texts = std::vector<std::string>;

Texts split(const std::string& text, const std::string& rule) {
    Texts texts;
    for (std::string_view document : split_documents(text, parse_split_rule(rule)))
        texts.emplace_back(document);
    return texts;
}

}  // namespace

TEST_CASE("a file is a document") {
    CHECK(split("a\n\nb", "file") == Texts{"a\n\nb"});
    CHECK(split("", "file").empty());
}

TEST_CASE("documents between blank lines") {
    CHECK(split("\n\na\nb\n\n \t\nc\n", "blank-line") == Texts{"a\nb\n", "c\n"});
    CHECK(split("a", "blank-line") == Texts{"a"});
    CHECK(split("\n \n", "blank-line").empty());
}

TEST_CASE("a line with a match starts a document") {
    CHECK(split("intro\nCHAPTER 1\nx\nCHAPTER 2\n", "regex:^CHAPTER ") ==
          Texts{"intro\n", "CHAPTER 1\nx\n", "CHAPTER 2\n"});
    CHECK(split("CHAPTER 1\n", "regex:^CHAPTER ") == Texts{"CHAPTER 1\n"});
    const std::string line(3'000'000, 'x');
    CHECK(split(line + "\nxy\n", "regex:(x|z)+y") == Texts{line + "\n", "xy\n"});
}

TEST_CASE("pieces end where the text allows it") {
    CHECK(split("aaaaa\n\nbb\nc", "bytes:10") == Texts{"aaaaa\n\n", "bb\nc"});
    CHECK(split("aaaaa\nbb\nccccc", "bytes:10") == Texts{"aaaaa\nbb\n", "ccccc"});
    CHECK(split("abcdefgh", "bytes:3") == Texts{"abc", "def", "gh"});
    CHECK(split("ab\xc3\xa9"
                "cd",
                "bytes:3") == Texts{"ab",
                                    "\xc3\xa9"
                                    "c",
                                    "d"});
    std::string text;
    for (int i = 0; i < 3000; ++i) text += i % 17 == 0 ? '\n' : static_cast<char>('a' + i % 7);
    for (int n : {1, 2, 3, 17, 100, 5000}) {
        const Texts pieces = split(text, "bytes:" + std::to_string(n));
        CHECK(std::accumulate(pieces.begin(), pieces.end(), std::string()) == text);
        for (const std::string& piece : pieces) CHECK(piece.size() <= static_cast<size_t>(n));
    }
}

TEST_CASE("rules that are none") {
    for (const char* rule : {"", "lines", "bytes:", "bytes:0", "bytes:-1", "bytes:3x", "regex:("})
        CHECK_THROWS_AS(parse_split_rule(rule), Error);
}
