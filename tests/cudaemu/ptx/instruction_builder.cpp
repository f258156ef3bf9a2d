// Builds a kernel: binds an instruction to its function and its operands to registers.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "exec/address.h"
#include "exec/special.h"
#include "ptx/kernel_builder.h"

namespace cudaemu {
namespace {

void replace(std::string& text, std::string_view what, std::string_view with) {
    const size_t at = text.find(what);
    if (at != text.npos) text.replace(at, what.size(), with);
}

bool is_use(Slot slot) {
    return slot != Slot::def_pred && slot != Slot::def32 && slot != Slot::def64 &&
           slot != Slot::pair_pred && slot != Slot::pair32;
}

}  // namespace

void KernelBuilder::instruction(Statement statement) {
    const size_t pc = kernel_->code.size();
    try {
        rewrite(statement);
        auto [entry, is_new] = decoded_.try_emplace(statement.mnemonic);
        if (is_new) entry->second = decode(statement.mnemonic);
        if (!entry->second) throw Unsupported{"instruction that the interpreter does not know"};
        emit(statement, *entry->second);
    } catch (const Unsupported& unsupported) {
        kernel_->code.resize(pc);
        widenings_.clear();
        emit_unsupported(unsupported.why, statement);
    }
}

// Brings forms that depend on their operands to forms of their own.
void KernelBuilder::rewrite(Statement& statement) {
    std::string& mnemonic = statement.mnemonic;
    mnemonic = plain_form(mnemonic);
    std::vector<Argument>& arguments = statement.arguments;
    if (mnemonic.starts_with("mov.") && arguments.size() == 2) {
        if (arguments[0].kind == Argument::vector)
            mnemonic = fmt::format("unpack.v{}{}", arguments[0].atoms.size(), mnemonic.substr(3));
        else if (arguments[1].kind == Argument::vector)
            mnemonic = fmt::format("pack.v{}{}", arguments[1].atoms.size(), mnemonic.substr(3));
    }
    // Parameters of device functions lie in the local memory of the caller.
    if (mnemonic.starts_with("st.param")) replace(mnemonic, ".param", ".local");
    if (mnemonic.starts_with("ld.param")) {
        for (const Argument& argument : arguments) {
            if (argument.kind != Argument::address) continue;
            const Symbol* symbol = find_symbol(argument.atoms.at(0).word);
            if (symbol && symbol->space == SymbolSpace::local)
                replace(mnemonic, ".param", ".local");
        }
    }
    // The last operand of an asynchronous copy may be a number of bytes or a predicate.
    if (mnemonic.starts_with("cp.async.c") && arguments.size() == 4) {
        const Register* reg = find_register(arguments[3].atoms.at(0).word);
        mnemonic += reg && reg->type == Type::pred ? ".ignore" : ".size";
    }
    // The number of threads of a reducing barrier may be missing in the middle: 0 is all.
    if (mnemonic.starts_with("bar") && mnemonic.find(".red.") != std::string::npos &&
        arguments.size() == 3)
        arguments.insert(arguments.begin() + 2, Argument{Argument::atom, {Atom{"0"}}, {}});
    // A return out of an expanded call is a jump behind it.
    if ((mnemonic == "ret" || mnemonic == "ret.uni") && !returns_.empty()) mnemonic = "return";
}

void KernelBuilder::emit(const Statement& statement, const Semantics& semantics) {
    Instruction instruction;
    instruction.run = semantics.run;
    instruction.flow = semantics.flow;
    instruction.options = semantics.options;
    instruction.source = add_source(statement.text);
    guard(instruction, statement.guard);
    bind(instruction, semantics, statement);
    if (statement.mnemonic == "return") returns_.back().push_back(kernel_->code.size());
    kernel_->code.push_back(instruction);
    for (const Widening& widening : widenings_) {
        emit_helper(widening.is_signed ? "extend.s32" : "extend.u32", widening.to, widening.from);
        guard(kernel_->code.back(), statement.guard);
    }
    widenings_.clear();
}

void KernelBuilder::bind(Instruction& instruction, const Semantics& semantics,
                         const Statement& statement) {
    // The operands in one row. A pair, d|p, takes the place after its first half.
    struct Flat {
        Atom atom;
        bool address = false, pair = false;
    };
    std::vector<Flat> flat;
    for (const Argument& argument : statement.arguments) {
        for (const Atom& atom : argument.atoms)
            flat.push_back({atom, argument.kind == Argument::address, false});
        if (argument.pair) flat.push_back({*argument.pair, false, true});
    }
    size_t at = 0;
    size_t operand = 0, address = 0;
    for (const Slot slot : semantics.slots) {
        Operand& bound = instruction.operands.at(operand++);
        const bool here = at < flat.size();
        if (slot == Slot::pair_pred || slot == Slot::pair32) {
            if (!here || !flat[at].pair) continue;
            instruction.paired = true;
        } else if (slot == Slot::optional_use32 || slot == Slot::optional_use_pred) {
            if (!here) break;
        } else if (!here || flat[at].pair) {
            throw Unsupported{"too few operands"};
        }
        const Flat& given = flat[at++];
        if (given.address != (slot == Slot::address)) throw Unsupported{"operands do not fit"};
        instruction.operand_count = static_cast<uint8_t>(operand);
        switch (slot) {
            case Slot::label:
                jumps_.push_back({kernel_->code.size(), given.atom.word, scopes_.back().id});
                break;
            case Slot::address:
                bind_address(bound, instruction.addresses.at(address++), given.atom);
                break;
            case Slot::use_pred:
            case Slot::optional_use_pred:
                bound = use_predicate(given.atom);
                break;
            default:
                bound = is_use(slot) ? use(given.atom, slot, semantics.literal)
                                     : define(given.atom, slot, semantics);
        }
    }
    if (at != flat.size()) throw Unsupported{"too many operands"};
}

Operand KernelBuilder::use(const Atom& atom, Slot slot, Type literal) {
    const bool wide = slot == Slot::use64;
    if (atom.negated) throw Unsupported{"operands do not fit"};
    if (const Register* reg = find_register(atom.word)) {
        if (atom.minus) throw Unsupported{"operands do not fit"};
        const int bits = bits_of(reg->type);
        if (bits == 1 || (wide && bits != 64)) throw Unsupported{"operands do not fit"};
        if (wide || bits != 64) return reg->where;
        const Operand low = allocate(false);
        emit_helper("narrow.u32", low, reg->where);
        return low;
    }
    if (const std::optional<uint64_t> value = number(atom, literal)) return constant(*value, wide);
    if (const std::optional<Operand> where = special(atom.word)) {
        if (wide) throw Unsupported{"operands do not fit"};
        return *where;
    }
    if (const Symbol* symbol = find_symbol(atom.word)) {
        if (symbol->space != SymbolSpace::dynamic_shared)
            return constant(symbol->address + atom.plus, wide);
        // Written as 64 bits a lane in any case; narrow when the size is known.
        const Operand address = fresh_constant(atom.plus, true);
        dynamic_symbols_.push_back(address);
        if (wide) return address;
        const Operand low = allocate(false);
        emit_helper("narrow.u32", low, address);
        return low;
    }
    throw Unsupported{"unknown name '" + std::string(atom.word) + "'"};
}

Operand KernelBuilder::use_predicate(const Atom& atom) {
    Operand operand;
    if (const Register* reg = find_register(atom.word)) {
        if (reg->type != Type::pred) throw Unsupported{"operands do not fit"};
        operand = reg->where;
    } else if (const std::optional<uint64_t> value = number(atom, Type::none)) {
        operand = constant(*value ? 0xffffffff : 0, false);
    } else {
        throw Unsupported{"unknown name '" + std::string(atom.word) + "'"};
    }
    if (!atom.negated) return operand;
    const Operand inverse = allocate(false);
    emit_helper("not.pred", inverse, operand);
    return inverse;
}

Operand KernelBuilder::define(const Atom& atom, Slot slot, const Semantics& semantics) {
    const bool wide = slot == Slot::def64;
    if (atom.word == "_") return allocate(wide);
    const Register* reg = find_register(atom.word);
    if (!reg) throw Unsupported{"unknown register '" + std::string(atom.word) + "'"};
    const int bits = bits_of(reg->type);
    const bool predicate = slot == Slot::def_pred || slot == Slot::pair_pred;
    if (predicate != (bits == 1) || (wide && bits != 64) || reg->where.constant)
        throw Unsupported{"operands do not fit"};
    if (predicate || wide || bits != 64) return reg->where;
    const Operand low = allocate(false);
    widenings_.push_back({reg->where, low, semantics.signed_result});
    return low;
}

void KernelBuilder::bind_address(Operand& operand, Instruction::Address& address,
                                 const Atom& atom) {
    address.displacement = atom.plus;
    if (const Register* reg = find_register(atom.word)) {
        operand = reg->where;
        address.wide = bits_of(reg->type) == 64;
        return;
    }
    Atom base = atom;
    base.plus = 0;
    operand = use(base, Slot::use64, Type::none);
}

void KernelBuilder::guard(Instruction& instruction, const std::optional<Atom>& atom) {
    if (!atom) return;
    const Register* reg = find_register(atom->word);
    if (!reg || reg->type != Type::pred) throw Unsupported{"the guard is no predicate"};
    instruction.guarded = true;
    instruction.guard = reg->where;
    instruction.guard_negated = atom->negated;
}

void KernelBuilder::emit_helper(std::string_view mnemonic, Operand to, Operand from) {
    const Semantics semantics = *decode(mnemonic);
    Instruction& instruction = kernel_->code.emplace_back();
    instruction.run = semantics.run;
    instruction.flow = semantics.flow;
    instruction.options = semantics.options;
    instruction.operands[0] = to;
    instruction.operands[1] = from;
    instruction.operand_count = static_cast<uint8_t>(semantics.slots.size());
    instruction.source = add_source(std::string(mnemonic));
}

void KernelBuilder::emit_unsupported(const std::string& why, const Statement& statement) {
    Instruction& instruction = kernel_->code.emplace_back();
    instruction.run = run_unsupported;
    instruction.source = add_source(statement.text + "` (" + why + ")");
    try {
        guard(instruction, statement.guard);
    } catch (const Unsupported&) {
        // Fails for all lanes then.
    }
}

uint32_t KernelBuilder::add_source(const std::string& text) {
    kernel_->sources.push_back({file_, line_, text, callers_});
    return static_cast<uint32_t>(kernel_->sources.size()) - 1;
}

Operand KernelBuilder::allocate(bool wide) {
    const Operand operand{static_cast<uint32_t>(kernel_->register_bytes), 0};
    kernel_->register_bytes += 32 * (wide ? 8 : 4);
    return operand;
}

Operand KernelBuilder::constant(uint64_t value, bool wide) {
    if (!wide) value = static_cast<uint32_t>(value);
    const auto [entry, is_new] = constants_.try_emplace({wide, value});
    if (is_new) entry->second = fresh_constant(value, wide);
    return entry->second;
}

Operand KernelBuilder::fresh_constant(uint64_t value, bool wide) {
    std::vector<std::byte>& bank = kernel_->constants;
    const Operand operand{static_cast<uint32_t>(bank.size()), 1};
    bank.resize(bank.size() + 32 * (wide ? 8 : 4));
    std::byte* cells = bank.data() + operand.offset;
    if (wide)
        std::fill_n(reinterpret_cast<uint64_t*>(cells), 32, value);
    else
        std::fill_n(reinterpret_cast<uint32_t*>(cells), 32, static_cast<uint32_t>(value));
    return operand;
}

const KernelBuilder::Register* KernelBuilder::find_register(std::string_view name) {
    const size_t digits = name.find_last_not_of("0123456789") + 1;
    const std::string_view family = name.substr(0, digits);
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
        const auto found = scope->registers.find(name);
        if (found != scope->registers.end()) return &found->second;
        const auto declared = scope->families.find(family);
        if (declared == scope->families.end() || digits == name.size()) continue;
        const std::optional<Literal> number = parse_literal(name.substr(digits));
        if (!number || number->bits >= declared->second.count) continue;
        const Type type = declared->second.type;
        return &(scope->registers[name] = {allocate(bits_of(type) == 64), type});
    }
    return nullptr;
}

const KernelBuilder::Symbol* KernelBuilder::find_symbol(std::string_view name) {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
        const auto found = scope->symbols.find(name);
        if (found != scope->symbols.end()) return &found->second;
    }
    Scope& outermost = scopes_.front();
    if (const auto found = module_.variables.find(name); found != module_.variables.end())
        return &(outermost.symbols[found->first] = {SymbolSpace::global, found->second.address});
    if (const auto found = module_.shared.find(name); found != module_.shared.end())
        return &(outermost.symbols[found->first] = place_shared(found->second));
    return nullptr;
}

std::optional<Operand> KernelBuilder::special(std::string_view name) {
    const auto known = specials_.find(name);
    if (known != specials_.end()) return known->second;
    const std::optional<Special> what = special_named(name);
    if (!what) return std::nullopt;
    const Operand operand = allocate(false);
    kernel_->specials.push_back({operand, *what});
    return specials_[name] = operand;
}

std::optional<uint64_t> KernelBuilder::number(const Atom& atom, Type literal) const {
    if (atom.word == "WARP_SZ") return 32;
    const std::optional<Literal> value = parse_literal(atom.word);
    if (!value) return std::nullopt;
    if (value->type == Type::none) return atom.minus ? -value->bits : value->bits;
    uint64_t bits = value->bits;
    const bool single = literal == Type::f32;
    if (value->type == Type::f64 && single)
        bits = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(bits)));
    else if (value->type == Type::f32 && literal == Type::f64)
        bits = std::bit_cast<uint64_t>(
            static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits))));
    const bool is_double = literal == Type::f64 || (value->type == Type::f64 && !single);
    return atom.minus ? bits ^ uint64_t { 1 } << (is_double ? 63 : 31) : bits;
}

}  // namespace cudaemu
