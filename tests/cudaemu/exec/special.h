// The special registers, and instructions that the interpreter cannot execute.
#pragma once

#include <optional>
#include <string_view>

#include "ptx/kernel.h"

namespace cudaemu {

// Of the name with its '%'. Nothing when the interpreter does not have the register.
std::optional<Special> special_named(std::string_view name);
// Fills the special registers of a warp at its beginning.
void fill_specials(Warp& warp);
// Execute: a Fault with the text of the instruction.
void run_unsupported(Warp& warp, const Instruction& instruction, uint32_t lanes);

}  // namespace cudaemu
