#include "data/split.h"

#include <charconv>

#include "base/error.h"

namespace fomoe {
namespace {

using Pieces = std::vector<std::string_view>;

// Calls f with the start and the line for every line; the line has no line end.
template <class F>
void for_each_line(std::string_view text, F f) {
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = std::min(text.find('\n', begin), text.size());
        f(begin, text.substr(begin, end - begin));
        begin = end + 1;
    }
}

// Cuts at ascending positions.
class Cutter {
public:
    explicit Cutter(std::string_view text) : text_(text) {}
    void cut(size_t at) {
        if (at > begin_) pieces_.push_back(text_.substr(begin_, at - begin_));
        begin_ = at;
    }
    Pieces finish() {
        cut(text_.size());
        return std::move(pieces_);
    }

private:
    std::string_view text_;
    size_t begin_ = 0;
    Pieces pieces_;
};

bool is_blank(std::string_view line) {
    return line.find_first_not_of(" \t\r\f\v") == std::string_view::npos;
}

Pieces split_at_blank_lines(std::string_view text) {
    Pieces pieces;
    size_t begin = 0, end = 0;
    for_each_line(text, [&](size_t at, std::string_view line) {
        if (is_blank(line)) {
            if (end > begin) pieces.push_back(text.substr(begin, end - begin));
            begin = end = 0;
            return;
        }
        if (end == begin) begin = at;
        end = std::min(at + line.size() + 1, text.size());
    });
    if (end > begin) pieces.push_back(text.substr(begin, end - begin));
    return pieces;
}

// std::regex goes one call deeper with every character, and would run out of stack.
constexpr size_t kMatched = 4096;

Pieces split_at_lines(std::string_view text, const std::regex& start) {
    Cutter cutter(text);
    for_each_line(text, [&](size_t at, std::string_view line) {
        const std::string_view front = line.substr(0, kMatched);
        if (std::regex_search(front.begin(), front.end(), start)) cutter.cut(at);
    });
    return cutter.finish();
}

Pieces split_by_size(std::string_view text, size_t n_bytes) {
    Cutter cutter(text);
    for (size_t begin = 0; text.size() - begin > n_bytes;) {
        const std::string_view piece = text.substr(begin, n_bytes);
        size_t length = n_bytes;
        if (const size_t blank = piece.rfind("\n\n"); blank != piece.npos && blank >= n_bytes / 2)
            length = std::min(blank + 2, n_bytes);
        else if (const size_t line = piece.rfind('\n'); line != piece.npos && line >= n_bytes / 2)
            length = line + 1;
        else
            // Bytes 10xxxxxx go on with a character.
            for (size_t i = 0; i < 3 && length > 1 && (text[begin + length] & 0xc0) == 0x80; ++i)
                --length;
        begin += length;
        cutter.cut(begin);
    }
    return cutter.finish();
}

}  // namespace

SplitRule parse_split_rule(const std::string& text) {
    if (text == "file") return {};
    if (text == "blank-line") return {.kind = SplitRule::Kind::blank_line};
    if (text.starts_with("regex:")) {
        try {
            return {.kind = SplitRule::Kind::regex, .line = std::regex(text.substr(6))};
        } catch (const std::regex_error& error) {
            throw Error(Exit::usage, concat("--split-on ", text, ": ", error.what()));
        }
    }
    if (text.starts_with("bytes:")) {
        size_t n = 0;
        const char* end = text.data() + text.size();
        const auto result = std::from_chars(text.data() + 6, end, n);
        if (result.ec == std::errc() && result.ptr == end && n > 0)
            return {.kind = SplitRule::Kind::bytes, .n_bytes = n};
    }
    throw Error(Exit::usage,
                concat("--split-on ", text, ": file, blank-line, regex:RE or bytes:N (N above 0)"));
}

std::vector<std::string_view> split_documents(std::string_view text, const SplitRule& rule) {
    switch (rule.kind) {
        case SplitRule::Kind::file:
            return text.empty() ? Pieces{} : Pieces{text};
        case SplitRule::Kind::blank_line:
            return split_at_blank_lines(text);
        case SplitRule::Kind::regex:
            return split_at_lines(text, rule.line);
        case SplitRule::Kind::bytes:
            return split_by_size(text, rule.n_bytes);
    }
    return {};
}

}  // namespace fomoe
