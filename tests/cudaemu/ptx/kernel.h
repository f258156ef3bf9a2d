// A kernel made ready: instructions bound to registers and to the functions that execute them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "exec/execute.h"

namespace cudaemu {

struct Warp;
struct Instruction;

// Executes the instruction for these lanes of the warp.
using Execute = void (*)(Warp& warp, const Instruction& instruction, uint32_t lanes);

// How the scheduler treats an instruction; everything but the control flow is in its Execute.
enum class Flow : uint8_t {
    plain,
    collective,  // waits for all lanes of the member mask, the last use
    aligned,     // waits for all lanes of the warp
    barrier,     // of the block
    branch,
    indexed_branch,
    exit,
};

// Where the 32 lanes of a register lie: 4 bytes a lane up to 32 bits, 8 bytes a lane for 64 bits; a
// predicate is 4 bytes with a bit a lane.
struct Operand {
    uint32_t offset : 31 = 0;   // bytes into its bank
    uint32_t constant : 1 = 0;  // bank: the constants of the kernel, or the registers of the warp
};

struct Instruction {
    Execute run = nullptr;
    Flow flow = Flow::plain;
    bool guarded = false;        // executes where the guard holds ...
    bool guard_negated = false;  // ... or does not
    bool paired = false;         // the optional second destination, d|p, is there
    uint8_t operand_count = 0;
    Operand guard;
    std::array<Operand, 16> operands{};  // in the order of the text, vectors flattened
    struct Address {
        int64_t displacement = 0;
        bool wide = true;  // the register has 64 bits
    };
    std::array<Address, 2> addresses{};  // of the address operands, in their order
    uint32_t target = 0;                 // pc of a branch; index into Kernel::branch_tables
    uint32_t options = 0;                // what the Execute keeps here
    uint32_t source = 0;                 // index into Kernel::sources
};

// Where an instruction comes from.
struct Origin {
    uint32_t file = 0;  // key of Kernel::files
    int line = 0;       // 0: unknown
    std::string text;   // the PTX instruction
    // Where the function that it stands in was inlined, and where that one was, ...
    std::vector<std::pair<uint32_t, int>> callers;  // file and line
};

enum class Special : uint8_t {
    tid_x,
    tid_y,
    tid_z,
    ntid_x,
    ntid_y,
    ntid_z,
    ctaid_x,
    ctaid_y,
    ctaid_z,
    nctaid_x,
    nctaid_y,
    nctaid_z,
    laneid,
    warpid,
    nwarpid,
    lanemask_eq,
    lanemask_lt,
    lanemask_le,
    lanemask_gt,
    lanemask_ge,
    dynamic_smem_size,
    total_smem_size,
    zero,
    one,
};

struct Kernel {
    KernelInfo info;
    std::vector<Instruction> code;
    std::vector<Origin> sources;
    std::vector<std::string> files;
    std::vector<std::vector<uint32_t>> branch_tables;  // target pcs
    std::vector<std::byte> constants;                  // bank of the constants
    size_t register_bytes = 0;                         // bank of a warp's registers
    struct SpecialRegister {
        Operand where;
        Special what = Special::zero;
    };
    std::vector<SpecialRegister> specials;
};

}  // namespace cudaemu
