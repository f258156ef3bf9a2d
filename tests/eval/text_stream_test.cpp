// What of a text that comes in pieces may be shown.
#include "eval/text_stream.h"

#include <catch2/catch.hpp>

using namespace fomoe;

namespace {

// What add() gave for each byte of the text, with '|' between them, and what was left.
std::string pieces(const std::string& text, const std::vector<std::string>& stops = {}) {
    TextStream stream(stops);
    std::string out;
    for (char byte : text) out += stream.add({&byte, 1}) + "|";
    return out + stream.rest();
}

}  // namespace

TEST_CASE("characters of UTF-8 are shown whole") {
    CHECK(pieces("ab") == "a|b|");
    CHECK(pieces("a\u00e9b") == "a||\u00e9|b|");
    CHECK(pieces("\u20ac") == "||\u20ac|");
    CHECK(pieces("\U0001f600!") == "|||\U0001f600|!|");
    // Bytes that are no text are shown once they can become none.
    CHECK(pieces("\xe2\x82") == "||\xe2\x82");
    CHECK(pieces("\xe2"
                 "a") ==
          "|\xe2"
          "a|");
    CHECK(pieces("\x82\xff") == "\x82|\xff|");
}

TEST_CASE("nothing is shown from a stop string on, nor before it is clear that there is none") {
    CHECK(pieces("one\n\ntwo", {"\n\n"}) == "o|n|e||||||");
    CHECK(pieces("one\ntwo", {"\n\n"}) == "o|n|e||\nt|w|o|");
    CHECK(pieces("aab", {"ab"}) == "|a||");
    CHECK(pieces("aba", {"abc"}) == "||ab|a");
    CHECK(pieces("xENDy", {"STOP", "EN"}) == "x|||||");
    TextStream stream({"end", "stop"});
    CHECK(stream.add("here it stops at the end") == "here it ");
    CHECK(stream.stopped());
    CHECK(stream.add("more") == "");
    CHECK(stream.rest() == "");
}
