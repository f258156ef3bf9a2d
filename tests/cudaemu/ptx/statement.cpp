// Reads one instruction.
#include <cctype>

#include "ptx/kernel_builder.h"

namespace cudaemu {
namespace {

Atom parse_atom(TokenStream& tokens) {
    Atom atom;
    atom.negated = tokens.accept("!");
    atom.minus = tokens.accept("-");
    if (!atom.minus) tokens.accept("+");
    if (tokens.peek().kind != Token::word) tokens.fail("expected an operand");
    atom.word = tokens.next().text;
    if (tokens.accept("+"))
        atom.plus = tokens.accept("-") ? -static_cast<int64_t>(tokens.number())
                                       : static_cast<int64_t>(tokens.number());
    else if (tokens.accept("-"))
        atom.plus = -static_cast<int64_t>(tokens.number());
    return atom;
}

}  // namespace

std::vector<Atom> parse_atoms(TokenStream& tokens, std::string_view open, std::string_view close) {
    std::vector<Atom> atoms;
    tokens.expect(open);
    while (!tokens.accept(close)) {
        atoms.push_back(parse_atom(tokens));
        tokens.accept(",");
    }
    return atoms;
}

Statement parse_statement(TokenStream& tokens) {
    Statement statement;
    const Token& first = tokens.peek();
    if (tokens.accept("@")) {
        statement.guard.emplace();
        statement.guard->negated = tokens.accept("!");
        statement.guard->word = tokens.next().text;
    }
    statement.mnemonic = tokens.next().text;
    while (!tokens.peek().is(";")) {
        Argument argument;
        if (tokens.peek().is("{")) {
            argument.kind = Argument::vector;
            argument.atoms = parse_atoms(tokens, "{", "}");
        } else if (tokens.peek().is("[")) {
            argument.kind = Argument::address;
            argument.atoms = parse_atoms(tokens, "[", "]");
        } else {
            argument.atoms = {parse_atom(tokens)};
        }
        if (tokens.accept("|")) argument.pair = parse_atom(tokens);
        statement.arguments.push_back(std::move(argument));
        if (!tokens.peek().is(";")) tokens.expect(",");
    }
    statement.text = text_between(first, tokens.peek());
    tokens.expect(";");
    return statement;
}

std::string text_between(const Token& first, const Token& last) {
    std::string text;
    for (const char* c = first.text.data(); c < last.text.data(); ++c) {
        if (!std::isspace(static_cast<unsigned char>(*c)))
            text += *c;
        else if (!text.empty() && text.back() != ' ')
            text += ' ';
    }
    if (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
}

}  // namespace cudaemu
