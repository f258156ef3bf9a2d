// Splits PTX text into words and punctuation.
#pragma once

#include <string_view>
#include <vector>

namespace cudaemu {

struct Token {
    // A word: a directive, an opcode with its modifiers, a register, a name, a number.
    enum Kind : uint8_t { word, string, punctuation, end };
    Kind kind = end;
    std::string_view text;  // of a string: without its quotes
    int line = 0;           // of the PTX text, from 1

    bool is(std::string_view other) const { return kind != string && text == other; }
};

// The tokens view `ptx`. The last one is of kind end.
std::vector<Token> tokenize(std::string_view ptx);

}  // namespace cudaemu
