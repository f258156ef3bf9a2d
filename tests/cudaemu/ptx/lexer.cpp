// Splits PTX text into words and punctuation.
#include "ptx/lexer.h"

#include <cctype>
#include <string>

#include "ptx/module.h"

namespace cudaemu {
namespace {

bool in_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
           c == '.';
}

class Lexer {
public:
    explicit Lexer(std::string_view text) : text_(text) {}

    std::vector<Token> run() {
        std::vector<Token> tokens;
        while (skip_blank()) tokens.push_back(next());
        tokens.push_back({Token::end, {}, line_});
        return tokens;
    }

private:
    // To the next token; false at the end of the text.
    bool skip_blank() {
        while (at_ < text_.size()) {
            const std::string_view rest = text_.substr(at_);
            if (rest.starts_with("//")) {
                at_ = std::min(text_.find('\n', at_), text_.size());
            } else if (rest.starts_with("/*")) {
                const size_t close = std::min(text_.find("*/", at_ + 2), text_.size() - 2);
                while (at_ < close + 2) step();
            } else if (std::isspace(static_cast<unsigned char>(text_[at_]))) {
                step();
            } else {
                return true;
            }
        }
        return false;
    }

    void step() { line_ += text_[at_++] == '\n'; }

    Token next() {
        const size_t begin = at_;
        const int line = line_;
        if (text_[at_] == '"') {
            ++at_;
            while (at_ < text_.size() && text_[at_] != '"') {
                if (text_[at_] == '\\') step();
                if (at_ < text_.size()) step();
            }
            if (at_ >= text_.size())
                throw PtxError("PTX line " + std::to_string(line) + ": string without end");
            ++at_;
            return {Token::string, text_.substr(begin + 1, at_ - begin - 2), line};
        }
        if (!in_word(text_[at_])) {
            ++at_;
            return {Token::punctuation, text_.substr(begin, 1), line};
        }
        while (at_ < text_.size()) {
            // "shared::cta" is one word, "label:" is not.
            const bool scope = text_.substr(at_).starts_with("::");
            if (!scope && !in_word(text_[at_])) break;
            at_ += scope ? 2 : 1;
        }
        return {Token::word, text_.substr(begin, at_ - begin), line};
    }

    std::string_view text_;
    size_t at_ = 0;
    int line_ = 1;
};

}  // namespace

std::vector<Token> tokenize(std::string_view ptx) { return Lexer(ptx).run(); }

}  // namespace cudaemu
