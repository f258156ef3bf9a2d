// What a PTX module declares, and the tokens it is read from.
#include "ptx/declaration.h"

#include <bit>
#include <cctype>
#include <charconv>

namespace cudaemu {

const Token& TokenStream::next() {
    const Token& token = peek();
    if (token.kind == Token::end) fail("unexpected end");
    ++at_;
    return token;
}

bool TokenStream::accept(std::string_view text) {
    if (!peek().is(text)) return false;
    ++at_;
    return true;
}

void TokenStream::expect(std::string_view text) {
    if (!accept(text))
        fail("expected '" + std::string(text) + "', found '" + std::string(peek().text) + "'");
}

void TokenStream::skip_brackets() {
    int depth = 0;
    do {
        const Token& token = next();
        if (token.is("{") || token.is("(") || token.is("[")) ++depth;
        if (token.is("}") || token.is(")") || token.is("]")) --depth;
    } while (depth);
}

void TokenStream::skip_past(std::string_view text) {
    while (!accept(text)) {
        if (peek().is("{") || peek().is("("))
            skip_brackets();
        else
            next();
    }
}

void TokenStream::skip_line() {
    const int line = peek().line;
    while (peek().kind != Token::end && peek().line == line) ++at_;
}

uint64_t TokenStream::number() {
    const Token& token = next();
    const std::optional<Literal> literal = parse_literal(token.text);
    if (!literal || literal->type != Type::none)
        fail("expected a number, found '" + std::string(token.text) + "'");
    return literal->bits;
}

void TokenStream::fail(const std::string& what) const {
    throw PtxError("PTX line " + std::to_string(peek().line) + ": " + what);
}

std::optional<Literal> parse_literal(std::string_view word) {
    if (word.empty() || !std::isdigit(static_cast<unsigned char>(word[0]))) return std::nullopt;
    const auto whole = [&](std::string_view digits, int base) -> std::optional<uint64_t> {
        uint64_t value = 0;
        const auto [end, error] =
            std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
        if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
        return value;
    };
    const char kind = word.size() > 1 ? static_cast<char>(std::tolower(word[1])) : ' ';
    if (word[0] == '0' && (kind == 'f' || kind == 'd')) {
        const std::optional<uint64_t> bits = whole(word.substr(2), 16);
        if (!bits) return std::nullopt;
        return Literal{*bits, kind == 'f' ? Type::f32 : Type::f64};
    }
    if (word.find('.') != word.npos) {
        double value = 0;
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
        if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
        return Literal{std::bit_cast<uint64_t>(value), Type::f64};
    }
    if (word.back() == 'U') word.remove_suffix(1);
    std::optional<uint64_t> value;
    if (word[0] == '0' && kind == 'x')
        value = whole(word.substr(2), 16);
    else if (word[0] == '0' && kind == 'b')
        value = whole(word.substr(2), 2);
    else
        value = whole(word, word[0] == '0' && word.size() > 1 ? 8 : 10);
    if (!value) return std::nullopt;
    return Literal{*value, Type::none};
}

Declaration parse_declaration(TokenStream& tokens) {
    Declaration result;
    result.space = tokens.next().text.substr(1);
    size_t align = 0;
    while (tokens.peek().kind == Token::word && tokens.peek().text[0] == '.') {
        const std::string_view word = tokens.next().text.substr(1);
        if (word == "align")
            align = tokens.number();
        else if (word == "ptr")
            // What the pointer points to says nothing about the parameter.
            while (tokens.peek().kind == Token::word && tokens.peek().text[0] == '.') {
                if (tokens.next().text == ".align") tokens.number();
            }
        else if (word == "attribute")
            tokens.skip_brackets();
        else if (const Type type = type_named(word); type != Type::none)
            result.type = type;
        else
            tokens.fail("unknown word '." + std::string(word) + "' in a declaration");
    }
    result.name = tokens.next().text;
    const size_t element = std::max(bits_of(result.type) / 8, 1);
    result.bytes = element;
    while (tokens.accept("[")) {
        if (tokens.accept("]")) {
            result.unsized = true;
            continue;
        }
        result.bytes *= tokens.number();
        tokens.expect("]");
    }
    if (result.unsized) result.bytes = 0;
    result.align = align ? align : element;
    return result;
}

}  // namespace cudaemu
