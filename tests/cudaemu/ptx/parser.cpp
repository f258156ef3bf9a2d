// Reads what a module declares, then builds its kernels.
#include <cstring>

#include "memory/device_memory.h"
#include "ptx/declaration.h"
#include "ptx/kernel_builder.h"
#include "ptx/module.h"

namespace cudaemu {
namespace {

class ModuleParser {
public:
    explicit ModuleParser(std::string_view ptx)
        : found_{tokenize(ptx), {}, {}, {}, {}}, tokens_(found_.tokens, 0) {}

    std::unique_ptr<Module> run() {
        while (tokens_.peek().kind != Token::end) directive();
        for (const Initialiser& initialiser : initialisers_) initialise(initialiser);

        auto module = std::make_unique<Module>();
        module->compute_capability = compute_capability_;
        module->variables.insert(found_.variables.begin(), found_.variables.end());
        for (const auto& [name, function] : found_.functions)
            if (function.entry && function.body)
                module->kernels[name] = build_kernel(found_, function);
        return module;
    }

private:
    struct Initialiser {
        size_t at = 0;  // token
        uint64_t address = 0;
        size_t element = 0, bytes = 0;
    };

    void directive() {
        const Token& token = tokens_.peek();
        if (token.is(".version") || token.is(".address_size")) {
            tokens_.skip_line();
        } else if (token.is(".target")) {
            tokens_.next();
            const std::string_view target = tokens_.next().text;  // sm_90a
            if (target.starts_with("sm_")) compute_capability_ = std::atoi(target.data() + 3);
            tokens_.skip_line();
        } else if (token.is(".file")) {
            tokens_.next();
            const size_t number = tokens_.number();
            if (found_.files.size() <= number) found_.files.resize(number + 1);
            found_.files[number] = tokens_.peek().text;
            tokens_.skip_line();
        } else if (token.is(".section")) {
            while (!tokens_.peek().is("{")) tokens_.next();
            tokens_.skip_brackets();
        } else if (token.is(".loc")) {
            tokens_.skip_line();
        } else if (token.is(".visible") || token.is(".extern") || token.is(".weak") ||
                   token.is(".common")) {
            tokens_.next();
        } else if (token.is(".entry") || token.is(".func")) {
            function();
        } else if (token.is(".global") || token.is(".const") || token.is(".shared")) {
            variable();
        } else if (token.is(".alias") || token.is(".pragma")) {
            tokens_.skip_past(";");
        } else if (!tokens_.accept(";")) {
            tokens_.fail("unexpected '" + std::string(token.text) + "'");
        }
    }

    std::vector<Declaration> parameters() {
        std::vector<Declaration> result;
        if (!tokens_.accept("(")) return result;
        while (!tokens_.accept(")")) {
            result.push_back(parse_declaration(tokens_));
            tokens_.accept(",");
        }
        return result;
    }

    void function() {
        Function function;
        function.entry = tokens_.next().is(".entry");
        if (!function.entry) function.returns = parameters();
        function.name = tokens_.next().text;
        function.params = parameters();
        while (!tokens_.peek().is("{") && !tokens_.peek().is(";")) {
            const Token& token = tokens_.next();
            if (!token.is(".maxntid") && !token.is(".reqntid")) continue;
            function.max_threads = tokens_.number();
            while (tokens_.accept(",")) function.max_threads *= tokens_.number();
        }
        if (tokens_.peek().is("{")) {
            function.body = tokens_.position() + 1;
            tokens_.skip_brackets();
        } else if (found_.functions.contains(function.name)) {
            return;  // declared again
        }
        found_.functions[function.name] = std::move(function);
    }

    void variable() {
        const Declaration declaration = parse_declaration(tokens_);
        if (declaration.space == "shared") {
            found_.shared[std::string(declaration.name)] = declaration;
        } else {
            const uint64_t address =
                DeviceMemory::instance().allocate(std::max<size_t>(declaration.bytes, 1));
            if (!address) tokens_.fail("no device memory for " + std::string(declaration.name));
            std::memset(DeviceMemory::instance().alias(address), 0, declaration.bytes);
            found_.variables[std::string(declaration.name)] = {address, declaration.bytes};
            if (tokens_.accept("="))
                initialisers_.push_back({tokens_.position(), address,
                                         static_cast<size_t>(bits_of(declaration.type)) / 8,
                                         declaration.bytes});
        }
        tokens_.skip_past(";");
    }

    // After all variables are known: an initialiser may hold the address of a later one.
    void initialise(const Initialiser& initialiser) {
        TokenStream tokens(found_.tokens, initialiser.at);
        std::byte* memory = DeviceMemory::instance().alias(initialiser.address);
        size_t offset = 0;
        while (!tokens.peek().is(";")) {
            if (tokens.accept("{") || tokens.accept("}") || tokens.accept(",")) continue;
            const uint64_t value = element(tokens, initialiser.element);
            if (offset + initialiser.element > initialiser.bytes)
                tokens.fail("more values than the variable holds");
            std::memcpy(memory + offset, &value, initialiser.element);
            offset += initialiser.element;
        }
    }

    uint64_t element(TokenStream& tokens, size_t bytes) {
        const bool minus = tokens.accept("-");
        const bool generic = tokens.accept("generic");
        if (generic) tokens.expect("(");
        const std::string_view word = tokens.next().text;
        if (generic) tokens.expect(")");
        if (const std::optional<Literal> literal = parse_literal(word)) {
            uint64_t bits = literal->bits;
            if (literal->type == Type::f64 && bytes == 4)
                bits = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(bits)));
            if (literal->type == Type::none) return minus ? -bits : bits;
            return minus ? bits ^ uint64_t { 1 } << (bytes * 8 - 1) : bits;
        }
        const auto variable = found_.variables.find(word);
        if (variable == found_.variables.end())
            tokens.fail("unknown symbol '" + std::string(word) + "' in an initialiser");
        return variable->second.address + (tokens.accept("+") ? tokens.number() : 0);
    }

    Declarations found_;
    TokenStream tokens_;
    int compute_capability_ = 80;
    std::vector<Initialiser> initialisers_;
};

}  // namespace

std::unique_ptr<Module> parse(std::string_view ptx) { return ModuleParser(ptx).run(); }

}  // namespace cudaemu
