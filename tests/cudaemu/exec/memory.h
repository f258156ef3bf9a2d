// Checked addresses of the lanes of a warp.
#pragma once

#include "exec/address.h"
#include "exec/block.h"
#include "ptx/form.h"

namespace cudaemu {

using Pointers = std::array<std::byte*, kWarpSize>;
using Addresses = std::array<uint64_t, kWarpSize>;

// What an instruction does with the memory at its addresses.
struct Reach {
    StateSpace space = StateSpace::generic;
    uint32_t bytes = 0;  // of each lane
    Access access = Access::read;
    uint32_t align = bytes;  // a power of two
};

// The addresses in operand `operand`, which is address operand number `which`; of the lanes that do
// not take part arbitrary.
Addresses addresses(const Warp& warp, const Instruction& instruction, int operand, int which = 0);

// Where the interpreter finds them. A Fault if one of `lanes` is out of bounds or misaligned; tells
// the observer.
void resolve(Warp& warp, const Instruction& instruction, uint32_t lanes, const Reach& reach,
             const Addresses& addresses, Pointers& pointers);

// One byte at a generic address.
std::byte* generic_byte(Warp& warp, const Instruction& instruction, uint32_t lane,
                        uint64_t generic);

// "global", "shared", ... with "::cta" removed; .const is global here.
StateSpace take_space(Form& form);

}  // namespace cudaemu
