// The instruction forms of a module.
#include "ptx/forms.h"

#include <set>

#include "ptx/form.h"
#include "ptx/kernel_builder.h"

namespace cudaemu {
namespace {

bool is_declaration(const Token& token) {
    return token.kind == Token::word && token.text[0] == '.';
}

// The name of the called function, if it has no body in the module.
std::string form_of_call(TokenStream& tokens, const std::set<std::string_view>& defined) {
    if (tokens.accept("@")) {
        tokens.accept("!");
        tokens.next();
    }
    tokens.next();
    if (tokens.peek().is("(")) {
        tokens.skip_brackets();
        tokens.expect(",");
    }
    const std::string_view name = tokens.next().text;
    tokens.skip_past(";");
    return defined.contains(name) ? "call" : "call." + std::string(name);
}

// The body that begins here, behind its brace.
void collect(TokenStream& tokens, const std::set<std::string_view>& defined,
             std::set<std::string>& found) {
    for (int depth = 1; depth;) {
        const Token& token = tokens.peek();
        const size_t mnemonic = !token.is("@") ? 0 : tokens.peek(1).is("!") ? 3 : 2;
        if (tokens.accept("{"))
            ++depth;
        else if (tokens.accept("}"))
            --depth;
        else if (token.is(".loc"))
            tokens.skip_line();
        else if (tokens.accept(";"))
            continue;
        else if (is_declaration(token))
            tokens.skip_past(";");
        else if (token.kind == Token::word && tokens.peek(1).is(":"))
            tokens.next(), tokens.next();
        else if (tokens.peek(mnemonic).text.starts_with("call"))
            found.insert(form_of_call(tokens, defined));
        else
            found.insert(parse_statement(tokens).mnemonic);
    }
}

// Moves behind the opening brace of the next function; false if there is none. Its name in `name`.
bool next_body(TokenStream& tokens, std::string_view& name) {
    while (tokens.peek().kind != Token::end) {
        if (!tokens.peek().is(".func") && !tokens.peek().is(".entry")) {
            if (tokens.peek().is("{"))
                tokens.skip_brackets();
            else
                tokens.next();
            continue;
        }
        tokens.next();
        if (tokens.peek().is("(")) tokens.skip_brackets();
        name = tokens.next().text;
        while (!tokens.peek().is("{") && !tokens.peek().is(";")) tokens.next();
        if (tokens.accept("{")) return true;
    }
    return false;
}

}  // namespace

std::vector<std::string> forms(std::string_view ptx) {
    const std::vector<Token> tokens = tokenize(ptx);
    std::string_view name;
    std::set<std::string_view> defined;
    for (TokenStream stream(tokens, 0); next_body(stream, name);) defined.insert(name);
    std::set<std::string> found;
    for (TokenStream stream(tokens, 0); next_body(stream, name);) collect(stream, defined, found);
    return {found.begin(), found.end()};
}

bool known(std::string_view form) { return form == "call" || decode(plain_form(form)).has_value(); }

}  // namespace cudaemu
