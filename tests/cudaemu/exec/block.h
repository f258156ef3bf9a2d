// The state of a running block and of its warps.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "exec/execute.h"
#include "exec/global_view.h"
#include "ptx/kernel.h"

namespace cudaemu {

constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kAllLanes = 0xffffffff;
constexpr uint32_t kBarriers = 16;

// Lanes of a warp that are at the same instruction.
struct Group {
    enum State : uint8_t { ready, waits_for_lanes, waits_at_barrier };
    uint32_t pc = 0;
    uint32_t lanes = 0;
    State state = ready;
    bool passed = false;   // has had its turn, others go first
    uint32_t barrier = 0;  // that it waits at
};

// A cp.async whose bytes have not landed in shared memory.
struct AsyncCopy {
    uint32_t offset = 0, bytes = 0;
    uint32_t group = 0;  // of the thread: number of commits before it
    std::array<std::byte, 16> data{};
};

struct AsyncCopies {
    std::vector<AsyncCopy> pending;  // oldest first
    uint32_t commits = 0;
};

struct Block;

struct Warp {
    std::array<std::byte*, 2> banks{};  // by Operand::constant
    Block* block = nullptr;
    uint32_t index = 0;
    uint32_t full = 0;   // lanes that exist
    uint32_t alive = 0;  // lanes that have not exited
    uint32_t carry = 0;  // the condition code, a bit a lane
    std::vector<Group> groups;
    std::array<AsyncCopies, kWarpSize> copies;

    uint32_t thread(uint32_t lane) const { return index * kWarpSize + lane; }
};

// A barrier that some threads of the block have arrived at.
struct Barrier {
    uint32_t arrived = 0;
    uint32_t expected = 0;                     // 0: all live threads
    const Instruction* instruction = nullptr;  // of the first that arrived
    uint32_t first_warp = 0;
    uint32_t votes = 0, ballots = 0;  // predicates that hold, and all, of a reduction
};

struct Block {
    const Kernel* kernel = nullptr;
    const Launch* launch = nullptr;
    Dim3 index;
    uint32_t linear = 0;  // index in the grid
    uint32_t threads = 0, alive = 0;
    std::vector<std::byte> shared;  // static, then dynamic
    std::vector<std::byte> local;   // [threads, kernel->info.local]
    std::vector<std::byte> registers;
    std::vector<Warp> warps;
    std::array<Barrier, kBarriers> barriers;
    GlobalView global;
    uint64_t executed = 0;                   // warp instructions not yet in `total`
    std::atomic<uint64_t>* total = nullptr;  // warp instructions of the launch

    Meter* meter = nullptr;  // metrics mode: counts the blocks of this thread

    Observer* observer() const { return launch->observer; }
};

// Prepares the block at this linear index; what it holds from the block before is reused.
void begin_block(Block& block, uint32_t linear);
// Executes it to its end.
void run_block(Block& block);

// Runs the warp until none of its groups can go on, or its turn is over. Whether it executed
// anything.
bool run_warp(Warp& warp);

// The group has arrived at a barrier of the block: it waits, or goes on if all are there.
void arrive(Warp& warp, Group& group, const Instruction& instruction);
// Whether a warp must come to this barrier with all its lanes together.
bool is_aligned_barrier(const Instruction& instruction);
// Threads have exited: lets barriers go on that waited for them only.
void recheck_barriers(Block& block);

[[noreturn]] void fault(const Warp& warp, const Instruction& instruction, uint32_t lane,
                        const std::string& what);
Site site(const Warp& warp, const Instruction& instruction, uint32_t lane);
// "file.cu:12 `bar.sync 0`"
std::string describe(const Kernel& kernel, const Instruction& instruction);

}  // namespace cudaemu
