// An opcode with its modifiers, and what it means.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ptx/kernel.h"
#include "ptx/types.h"

namespace cudaemu {

// "ld.global.nc.v4.u32" taken apart. A decoder takes the modifiers that it understands; a form of
// which something is left is unknown, so that no modifier is silently ignored.
class Form {
public:
    explicit Form(std::string_view mnemonic);

    std::string_view opcode() const { return opcode_; }
    // Whether the modifier is there; takes it.
    bool take(std::string_view modifier);
    // The index of the one that is there; takes it. -1: none.
    int take_any(std::initializer_list<std::string_view> modifiers);
    // Takes the first modifier that names a type. Type::none: there is none.
    Type take_type();
    // The modifiers that are left, in order.
    const std::vector<std::string_view>& rest() const { return modifiers_; }

private:
    std::string_view opcode_;
    std::vector<std::string_view> modifiers_;
};

// The form without words that say nothing: "shared::cta" is "shared".
std::string plain_form(std::string_view mnemonic);

// What an instruction does with an operand.
enum class Slot : uint8_t {
    def_pred,
    def32,
    def64,
    pair_pred,
    pair32,  // the optional second destination, after '|'
    use_pred,
    use32,
    use64,
    optional_use32,
    optional_use_pred,  // may be missing at the end
    address,
    label,
};

struct Semantics {
    Execute run = nullptr;
    std::vector<Slot> slots;  // one for each operand, vectors flattened
    Flow flow = Flow::plain;
    uint32_t options = 0;
    bool signed_result = false;  // how a 32-bit result fills a 64-bit register
    Type literal = Type::none;   // f32, f64: what a floating-point literal becomes
};

// The slot of a source or a destination of this type.
Slot use_of(Type type);
Slot def_of(Type type);

// Nothing when the interpreter does not know the form. Besides those of PTX there are "pack.bN",
// "unpack.bN" and "symbol" forms, which the parser makes of mov (see function.cpp).
std::optional<Semantics> decode(std::string_view mnemonic);

}  // namespace cudaemu
