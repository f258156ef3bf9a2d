// Cuts text into documents.
#pragma once

#include <cstdint>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

namespace fomoe {

struct SplitRule {
    enum class Kind { file, blank_line, regex, bytes };
    Kind kind = Kind::file;
    std::regex line;  // regex: a document starts at each line with a match in its first 4096 bytes
    size_t n_bytes = 0;  // bytes: pieces of at most so many
};

// "file", "blank-line", "regex:RE" or "bytes:N"; else Error(Exit::usage).
SplitRule parse_split_rule(const std::string& text);

// The documents of one file, in order; together they are the text, but for the blank lines that
// blank-line cuts at. Pieces of a fixed size end at a blank line or a line end where one stands in
// their second half, and never inside a UTF-8 character.
std::vector<std::string_view> split_documents(std::string_view text, const SplitRule& rule);

}  // namespace fomoe
