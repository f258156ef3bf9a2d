// Builds a kernel from its tokens; device functions that it calls are expanded in place.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ptx/declaration.h"
#include "ptx/form.h"
#include "ptx/kernel.h"

namespace cudaemu {

std::shared_ptr<const Kernel> build_kernel(const Declarations& module, const Function& entry);

// A piece of an operand: a register, a number or a symbol with an offset.
struct Atom {
    std::string_view word;
    bool minus = false;    // -1
    bool negated = false;  // !%p
    int64_t plus = 0;      // symbol+8
};

struct Argument {
    enum Kind : uint8_t { atom, vector, address };
    Kind kind = atom;
    std::vector<Atom> atoms;
    std::optional<Atom> pair;  // after '|'
};

// An instruction as the text has it.
struct Statement {
    std::string mnemonic;
    std::vector<Argument> arguments;
    std::optional<Atom> guard;
    std::string text;
};

// Reads a statement up to its ';'. A call is not one of them.
Statement parse_statement(TokenStream& tokens);
std::vector<Atom> parse_atoms(TokenStream& tokens, std::string_view open, std::string_view close);
// The text between two tokens, with single blanks.
std::string text_between(const Token& first, const Token& last);

class KernelBuilder {
public:
    KernelBuilder(const Declarations& module, const Function& entry);
    std::shared_ptr<const Kernel> run();

private:
    struct Register {
        Operand where;
        Type type = Type::b32;
    };
    struct Family {  // %r<100>
        Type type = Type::b32;
        uint64_t count = 0;
    };
    enum class SymbolSpace : uint8_t { global, shared, dynamic_shared, local, param };
    struct Symbol {
        SymbolSpace space = SymbolSpace::global;
        uint64_t address = 0;
    };
    struct Scope {
        int id = 0;
        std::unordered_map<std::string_view, Register> registers;
        std::unordered_map<std::string_view, Family> families;
        std::unordered_map<std::string_view, Symbol> symbols;
    };
    struct Jump {
        size_t pc = 0;
        std::string_view label;
        int scope = 0;
    };
    struct BranchTable {
        std::vector<std::string_view> labels;
        int scope = 0;
    };
    // The instruction cannot be executed; it becomes a Fault when it is reached.
    struct Unsupported {
        std::string why;
    };

    // Statements: kernel_builder.cpp.
    void body(size_t at);
    void location(TokenStream& tokens);
    void directive(TokenStream& tokens);
    void registers(TokenStream& tokens);
    void label(TokenStream& tokens);
    void call(TokenStream& tokens);
    void expand(const Function& function, const std::vector<Atom>& results,
                const std::vector<Atom>& arguments);
    void push_scope();
    void declare(const Declaration& declaration);
    Symbol place_shared(const Declaration& declaration);
    std::optional<uint32_t> find_label(std::string_view name, int scope) const;
    void resolve_jumps();

    // Instructions: instruction_builder.cpp.
    void instruction(Statement statement);
    void rewrite(Statement& statement);
    void emit(const Statement& statement, const Semantics& semantics);
    void bind(Instruction& instruction, const Semantics& semantics, const Statement& statement);
    Operand use(const Atom& atom, Slot slot, Type literal);
    Operand use_predicate(const Atom& atom);
    Operand define(const Atom& atom, Slot slot, const Semantics& semantics);
    void bind_address(Operand& operand, Instruction::Address& address, const Atom& atom);
    void guard(Instruction& instruction, const std::optional<Atom>& atom);
    // An instruction of the interpreter's own: destination, source.
    void emit_helper(std::string_view mnemonic, Operand to, Operand from);
    void emit_unsupported(const std::string& why, const Statement& statement);
    uint32_t add_source(const std::string& text);

    Operand allocate(bool wide);
    Operand constant(uint64_t value, bool wide);
    Operand fresh_constant(uint64_t value, bool wide);
    const Register* find_register(std::string_view name);
    const Symbol* find_symbol(std::string_view name);
    std::optional<Operand> special(std::string_view name);
    std::optional<uint64_t> number(const Atom& atom, Type literal) const;

    const Declarations& module_;
    const Function& entry_;
    std::shared_ptr<Kernel> kernel_;
    std::vector<Scope> scopes_;
    std::vector<int> scope_parents_;
    std::map<std::pair<int, std::string_view>, uint32_t> labels_;
    std::vector<Jump> jumps_;
    std::map<std::pair<int, std::string_view>, BranchTable> branch_tables_;
    std::vector<std::vector<size_t>> returns_;  // of each expanded call: pcs that jump to its end
    std::vector<std::string_view> expanding_;
    std::map<std::pair<bool, uint64_t>, Operand> constants_;
    std::map<std::string_view, Operand> specials_;
    std::unordered_map<std::string, std::optional<Semantics>> decoded_;
    struct Widening {  // a 64-bit register that takes a 32-bit result
        Operand to, from;
        bool is_signed = false;
    };
    std::vector<Widening> widenings_;  // after the instruction being built
    std::vector<Operand>
        dynamic_symbols_;  // constants that get the size of the static shared memory
    size_t dynamic_align_ = 1;
    size_t shared_ = 0, local_ = 0;  // bytes
    uint32_t file_ = 0;
    int line_ = 0;
    using Callers = std::vector<std::pair<uint32_t, int>>;  // see Source
    Callers callers_;
    std::map<std::array<uint64_t, 3>, Callers> inlined_;  // by file, line and column
};

}  // namespace cudaemu
