// Builds a kernel: its statements, declarations, labels and calls.
#include "ptx/kernel_builder.h"

#include <algorithm>

namespace cudaemu {
namespace {

size_t align_up(size_t value, size_t align) { return (value + align - 1) / align * align; }

// Beyond this the calls are taken for a recursion.
constexpr size_t kDeepestCall = 64;

}  // namespace

std::shared_ptr<const Kernel> build_kernel(const Declarations& module, const Function& entry) {
    return KernelBuilder(module, entry).run();
}

KernelBuilder::KernelBuilder(const Declarations& module, const Function& entry)
    : module_(module), entry_(entry), kernel_(std::make_shared<Kernel>()) {}

std::shared_ptr<const Kernel> KernelBuilder::run() {
    KernelInfo& info = kernel_->info;
    info.name = entry_.name;
    info.max_threads = entry_.max_threads;
    kernel_->files = module_.files;
    push_scope();
    for (const Declaration& param : entry_.params) {
        info.param_bytes = align_up(info.param_bytes, param.align);
        info.params.push_back({info.param_bytes, param.bytes});
        scopes_.back().symbols[param.name] = {SymbolSpace::param, info.param_bytes};
        info.param_bytes += param.bytes;
    }
    body(entry_.body);
    emit_helper("exit", {}, {});
    resolve_jumps();

    if (!dynamic_symbols_.empty()) shared_ = align_up(shared_, dynamic_align_);
    for (const Operand symbol : dynamic_symbols_) {
        auto* cells = kernel_->constants.data() + symbol.offset;
        for (int lane = 0; lane < 32; ++lane) reinterpret_cast<uint64_t*>(cells)[lane] += shared_;
    }
    info.static_shared = shared_;
    info.local = align_up(local_, 16);
    return kernel_;
}

void KernelBuilder::push_scope() {
    scope_parents_.push_back(scopes_.empty() ? -1 : scopes_.back().id);
    scopes_.push_back({static_cast<int>(scope_parents_.size()) - 1, {}, {}, {}});
}

// `at`: the token after the opening brace.
void KernelBuilder::body(size_t at) {
    TokenStream tokens(module_.tokens, at);
    for (int depth = 1; depth;) {
        const Token& token = tokens.peek();
        if (tokens.accept("{")) {
            push_scope();
            ++depth;
        } else if (tokens.accept("}")) {
            if (--depth) scopes_.pop_back();
        } else if (tokens.accept(";")) {
            continue;
        } else if (token.kind == Token::word && tokens.peek(1).is(":")) {
            label(tokens);
        } else if (token.kind == Token::word && token.text[0] == '.') {
            directive(tokens);
        } else if (token.text.starts_with("call") ||
                   (token.is("@") &&
                    tokens.peek(tokens.peek(1).is("!") ? 3 : 2).text.starts_with("call"))) {
            try {
                call(tokens);
            } catch (const Unsupported& unsupported) {
                tokens.fail(unsupported.why);
            }
        } else {
            instruction(parse_statement(tokens));
        }
    }
}

// .loc file line column [, function_name label[+offset], inlined_at file line column]
void KernelBuilder::location(TokenStream& tokens) {
    tokens.expect(".loc");
    const auto place = [&] {
        std::array<uint64_t, 3> numbers{};
        for (uint64_t& number : numbers) number = tokens.number();
        return numbers;
    };
    const std::array<uint64_t, 3> here = place();
    file_ = static_cast<uint32_t>(here[0]);
    line_ = static_cast<int>(here[1]);
    callers_.clear();
    while (tokens.accept(",")) {
        if (!tokens.accept("inlined_at")) {
            tokens.next();
            tokens.next();
            if (tokens.accept("+")) tokens.next();
            continue;
        }
        const std::array<uint64_t, 3> caller = place();
        callers_ = {{static_cast<uint32_t>(caller[0]), static_cast<int>(caller[1])}};
        // The caller's own callers stand in an earlier directive, for the caller's place.
        const Callers& outer = inlined_[caller];
        callers_.insert(callers_.end(), outer.begin(), outer.end());
    }
    inlined_[here] = callers_;
}

void KernelBuilder::directive(TokenStream& tokens) {
    const Token& token = tokens.peek();
    if (token.is(".loc")) {
        location(tokens);
    } else if (token.is(".reg")) {
        registers(tokens);
    } else if (token.is(".shared") || token.is(".local") || token.is(".param")) {
        declare(parse_declaration(tokens));
        tokens.expect(";");
    } else if (token.is(".pragma")) {
        tokens.skip_past(";");
    } else {
        tokens.fail("unexpected '" + std::string(token.text) + "'");
    }
}

void KernelBuilder::registers(TokenStream& tokens) {
    tokens.expect(".reg");
    const std::string_view word = tokens.next().text;
    const Type type = type_named(word.substr(1));
    if (type == Type::none) tokens.fail("unknown register type '" + std::string(word) + "'");
    do {
        const std::string_view name = tokens.next().text;
        if (tokens.accept("<")) {
            scopes_.back().families[name] = {type, tokens.number()};
            tokens.expect(">");
        } else {
            scopes_.back().registers[name] = {allocate(bits_of(type) == 64), type};
        }
    } while (tokens.accept(","));
    tokens.expect(";");
}

void KernelBuilder::declare(const Declaration& declaration) {
    Symbol& symbol = scopes_.back().symbols[declaration.name];
    if (declaration.space == "shared") {
        symbol = place_shared(declaration);
        return;
    }
    local_ = align_up(local_, declaration.align);
    symbol = {SymbolSpace::local, local_};
    local_ += declaration.bytes;
}

KernelBuilder::Symbol KernelBuilder::place_shared(const Declaration& declaration) {
    if (declaration.unsized) {
        dynamic_align_ = std::max(dynamic_align_, declaration.align);
        return {SymbolSpace::dynamic_shared, 0};
    }
    shared_ = align_up(shared_, declaration.align);
    const Symbol symbol{SymbolSpace::shared, shared_};
    shared_ += declaration.bytes;
    return symbol;
}

void KernelBuilder::label(TokenStream& tokens) {
    const std::string_view name = tokens.next().text;
    tokens.expect(":");
    const std::pair key(scopes_.back().id, name);
    if (tokens.accept(".branchtargets")) {
        BranchTable& table = branch_tables_[key];
        table.scope = scopes_.back().id;
        do table.labels.push_back(tokens.next().text);
        while (tokens.accept(","));
        tokens.expect(";");
    } else if (tokens.peek().is(".callprototype") || tokens.peek().is(".calltargets")) {
        tokens.skip_past(";");
    } else if (!labels_.emplace(key, static_cast<uint32_t>(kernel_->code.size())).second) {
        tokens.fail("label '" + std::string(name) + "' is defined twice");
    }
}

// call (results), function, (arguments);
void KernelBuilder::call(TokenStream& tokens) {
    const Token& first = tokens.peek();
    Statement statement;
    if (tokens.accept("@")) {
        statement.guard.emplace();
        statement.guard->negated = tokens.accept("!");
        statement.guard->word = tokens.next().text;
    }
    tokens.next();
    std::vector<Atom> results, arguments;
    if (tokens.peek().is("(")) {
        results = parse_atoms(tokens, "(", ")");
        tokens.expect(",");
    }
    const std::string_view name = tokens.next().text;
    if (tokens.accept(",") && tokens.peek().is("(")) arguments = parse_atoms(tokens, "(", ")");
    tokens.skip_past(";");
    statement.text = text_between(first, tokens.peek());
    statement.mnemonic = "call." + std::string(name);

    // Lanes that do not call jump over the expansion.
    std::optional<size_t> jump;
    if (statement.guard) {
        Statement skip{"bra", {}, statement.guard, statement.text};
        skip.guard->negated = !skip.guard->negated;
        jump = kernel_->code.size();
        emit(skip, Semantics{nullptr, {}, Flow::branch});
    }
    const auto function = module_.functions.find(name);
    const bool defined = function != module_.functions.end() && function->second.body;
    if (const std::optional<Semantics> built_in = decode(statement.mnemonic)) {
        // vprintf and its like: the values of the parameters are the operands.
        Instruction instruction;
        instruction.run = built_in->run;
        instruction.source = add_source(statement.text);
        for (size_t i = 0; i < arguments.size() && i < built_in->slots.size(); ++i) {
            const bool wide = built_in->slots[i] == Slot::use64;
            const Operand value = allocate(wide);
            const Semantics load = *decode(wide ? "ld.local.b64" : "ld.local.b32");
            Instruction& loading = kernel_->code.emplace_back();
            loading.run = load.run;
            loading.options = load.options;
            loading.source = instruction.source;
            loading.operands[0] = value;
            loading.operand_count = 2;
            bind_address(loading.operands[1], loading.addresses[0], arguments[i]);
            instruction.operands[i] = value;
        }
        kernel_->code.push_back(instruction);
    } else if (!defined) {
        emit_unsupported("call of a function without a body", statement);
    } else if (expanding_.size() >= kDeepestCall) {
        emit_unsupported("recursion", statement);
    } else {
        expand(function->second, results, arguments);
    }
    if (jump) kernel_->code[*jump].target = static_cast<uint32_t>(kernel_->code.size());
}

// The names of the parameters stand for what the caller passes.
void KernelBuilder::expand(const Function& function, const std::vector<Atom>& results,
                           const std::vector<Atom>& arguments) {
    // Looked up before the callee's names, which may be the same, hide the caller's.
    Scope names;
    const auto pass = [&](const std::vector<Declaration>& formal, const std::vector<Atom>& actual) {
        for (size_t i = 0; i < formal.size() && i < actual.size(); ++i) {
            const auto& [name, space, type, bytes, align, unsized] = formal[i];
            if (const Symbol* symbol = find_symbol(actual[i].word))
                names.symbols[name] = *symbol;
            else if (const Register* reg = find_register(actual[i].word))
                names.registers[name] = *reg;
            else if (const std::optional<uint64_t> value = number(actual[i], type))
                names.registers[name] = {constant(*value, bits_of(type) == 64), type};
        }
    };
    pass(function.params, arguments);
    pass(function.returns, results);
    const size_t outer = scopes_.size();
    push_scope();
    names.id = scopes_.back().id;
    scopes_.back() = std::move(names);
    expanding_.push_back(function.name);
    returns_.emplace_back();
    const auto place = std::tuple(file_, line_, callers_);
    body(function.body);
    std::tie(file_, line_, callers_) = place;
    for (const size_t pc : returns_.back())
        kernel_->code[pc].target = static_cast<uint32_t>(kernel_->code.size());
    returns_.pop_back();
    expanding_.pop_back();
    scopes_.resize(outer);
}

std::optional<uint32_t> KernelBuilder::find_label(std::string_view name, int scope) const {
    for (; scope >= 0; scope = scope_parents_[scope]) {
        const auto found = labels_.find({scope, name});
        if (found != labels_.end()) return found->second;
    }
    return std::nullopt;
}

void KernelBuilder::resolve_jumps() {
    const auto label = [&](std::string_view name, int scope) {
        const std::optional<uint32_t> pc = find_label(name, scope);
        if (!pc) throw PtxError(entry_.name + ": no label '" + std::string(name) + "'");
        return *pc;
    };
    for (const Jump& jump : jumps_) {
        Instruction& instruction = kernel_->code[jump.pc];
        if (instruction.flow == Flow::branch) {
            instruction.target = label(jump.label, jump.scope);
            continue;
        }
        const BranchTable* table = nullptr;
        for (int scope = jump.scope; scope >= 0 && !table; scope = scope_parents_[scope]) {
            const auto found = branch_tables_.find({scope, jump.label});
            if (found != branch_tables_.end()) table = &found->second;
        }
        if (!table)
            throw PtxError(entry_.name + ": no branch targets '" + std::string(jump.label) + "'");
        instruction.target = static_cast<uint32_t>(kernel_->branch_tables.size());
        std::vector<uint32_t>& targets = kernel_->branch_tables.emplace_back();
        for (const std::string_view name : table->labels)
            targets.push_back(label(name, table->scope));
    }
}

}  // namespace cudaemu
