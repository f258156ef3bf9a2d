// An opcode with its modifiers, taken apart.
#include "ptx/form.h"

#include <algorithm>

namespace cudaemu {

Form::Form(std::string_view mnemonic) {
    size_t begin = 0;
    for (bool first = true; begin <= mnemonic.size(); first = false) {
        const size_t end = std::min(mnemonic.find('.', begin), mnemonic.size());
        const std::string_view part = mnemonic.substr(begin, end - begin);
        if (first)
            opcode_ = part;
        else
            modifiers_.push_back(part);
        begin = end + 1;
    }
}

bool Form::take(std::string_view modifier) {
    const auto found = std::find(modifiers_.begin(), modifiers_.end(), modifier);
    if (found == modifiers_.end()) return false;
    modifiers_.erase(found);
    return true;
}

int Form::take_any(std::initializer_list<std::string_view> modifiers) {
    int index = 0;
    for (const std::string_view modifier : modifiers) {
        if (take(modifier)) return index;
        ++index;
    }
    return -1;
}

Type Form::take_type() {
    for (auto i = modifiers_.begin(); i != modifiers_.end(); ++i) {
        const Type type = type_named(*i);
        if (type == Type::none) continue;
        modifiers_.erase(i);
        return type;
    }
    return Type::none;
}

std::string plain_form(std::string_view mnemonic) {
    std::string result(mnemonic);
    for (const std::string_view word : {"::cta", "::entry", "::func"}) {
        const size_t at = result.find(word);
        if (at != result.npos) result.erase(at, word.size());
    }
    return result;
}

Slot use_of(Type type) {
    return type == Type::pred ? Slot::use_pred : bits_of(type) == 64 ? Slot::use64 : Slot::use32;
}

Slot def_of(Type type) {
    return type == Type::pred ? Slot::def_pred : bits_of(type) == 64 ? Slot::def64 : Slot::def32;
}

}  // namespace cudaemu
