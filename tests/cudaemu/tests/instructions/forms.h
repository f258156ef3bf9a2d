// The forms of instructions that a PTX text has.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace cudaemu {

// "shfl.sync.idx.b32 r|r r r r r": the opcode with its modifiers and the kind of each operand: r a
// register, number or predicate, v2 a vector, m an address, s a name (a label, variable or
// function), () a list of arguments.
std::set<std::string> forms_of(std::string_view ptx);

}  // namespace cudaemu
