// What a PTX module declares, and the tokens it is read from.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/lexer.h"
#include "ptx/module.h"
#include "ptx/types.h"

namespace cudaemu {

// Tokens read one after another. Throws PtxError where something else is expected.
class TokenStream {
public:
    TokenStream(const std::vector<Token>& tokens, size_t at) : tokens_(&tokens), at_(at) {}

    const Token& peek(size_t ahead = 0) const {
        return (*tokens_)[std::min(at_ + ahead, tokens_->size() - 1)];
    }
    const Token& next();
    bool accept(std::string_view text);
    void expect(std::string_view text);
    // Past the closing bracket that belongs to the opening one here.
    void skip_brackets();
    // Past the next token of this text, which is not inside of brackets.
    void skip_past(std::string_view text);
    void skip_line();
    // A number that must not be negative.
    uint64_t number();
    size_t position() const { return at_; }
    [[noreturn]] void fail(const std::string& what) const;

private:
    const std::vector<Token>* tokens_;
    size_t at_;
};

struct Literal {
    uint64_t bits = 0;       // of the integer, the float or the double
    Type type = Type::none;  // none: an integer; f32, f64
};
// A number of PTX without its sign: 12, 0x1f, 0f3F800000, 0d3FF0000000000000, 1.5.
std::optional<Literal> parse_literal(std::string_view word);

struct Declaration {
    std::string_view name;
    std::string_view space;  // reg, param, shared, local, global, const
    Type type = Type::b8;
    size_t bytes = 0, align = 1;
    bool unsized = false;  // name[]
};
// From the space, ".shared", up to the name and its dimensions.
Declaration parse_declaration(TokenStream& tokens);

struct Function {
    std::string name;
    bool entry = false;
    std::vector<Declaration> params, returns;
    size_t body = 0;  // index of the token after '{'; 0: only declared
    uint32_t max_threads = 1024;
};

// All that the kernels of a module refer to.
struct Declarations {
    std::vector<Token> tokens;
    std::map<std::string, Function, std::less<>> functions;
    std::map<std::string, Variable, std::less<>> variables;  // .global and .const
    std::map<std::string, Declaration, std::less<>> shared;
    std::vector<std::string> files;  // by the number of .file
};

}  // namespace cudaemu
