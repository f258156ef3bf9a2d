// Counts what a kernel asks of memory and of the arithmetic units, instruction by instruction.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "exec/observer.h"
#include "metrics/sectors.h"

namespace cudaemu {

// Of one instruction, over all warps that executed it.
struct InstructionCounts {
    uint64_t executed = 0;  // warp instructions
    uint64_t lanes = 0;     // that took part, over all of them
    struct {
        uint64_t requests = 0;  // warp instructions that touched device memory
        uint64_t bytes = 0;     // asked for, each lane on its own
        uint64_t sectors = 0;   // distinct ones of 32 bytes in each request
        uint64_t ideal = 0;     // sectors that the distinct bytes of each request would fill
    } global;
    struct {
        uint64_t requests = 0;
        uint64_t bytes = 0;
        uint64_t passes = 0;  // over the 32 banks
        uint64_t ideal = 0;   // passes without a conflict
    } shared;

    void add(const InstructionCounts& other);
};

// A request of one warp, the part that goes to one memory.
class Request {
public:
    static constexpr uint32_t kLanes = 32;
    struct Piece {
        uint64_t address = 0;
        uint32_t bytes = 0, lane = 0;
    };

    void add(const Piece& piece) { pieces_[count_++] = piece; }
    void clear() { count_ = 0; }
    bool empty() const { return count_ == 0; }
    const Piece* begin() const { return pieces_.data(); }
    const Piece* end() const { return pieces_.data() + count_; }
    uint64_t bytes() const;

private:
    std::array<Piece, kLanes> pieces_;
    uint32_t count_ = 0;
};

// The sectors of device memory that a request touches, in the order of the lanes.
struct Sectors {
    std::array<uint64_t, 2 * Request::kLanes> index;  // address / 32
    uint32_t count = 0;
    uint64_t distinct_bytes = 0;
};
Sectors sectors_of(const Request& request);

// Shared memory has 32 banks of 4 bytes. A warp's request goes through in groups of lanes: all 32
// with up to 4 bytes each, 16 with 8, 8 with 16. A group takes one pass, or as many as it has
// different words in one bank.
struct Passes {
    uint64_t taken = 0;
    uint64_t ideal = 0;  // one for each group
};
Passes passes_of(const Request& request);

// Of one kernel; each thread of the interpreter has its own, and the launch their sum.
class Meter {
public:
    explicit Meter(size_t instructions) : counts_(instructions) {}

    void block_begins() { sectors_.block_begins(); }
    // A lane of the warp instruction that is being executed touches memory.
    void touches(Space space, Access access, const Request::Piece& piece);
    // The instruction at this index has been executed by so many lanes.
    void executed(size_t index, uint32_t lanes);
    void add(const Meter& other);

    const std::vector<InstructionCounts>& counts() const { return counts_; }
    const SectorMap& sectors() const { return sectors_; }
    uint64_t atomics() const { return atomics_; }  // lanes of atomic accesses to device memory

private:
    void finish_global(InstructionCounts& counts);
    void finish_shared(InstructionCounts& counts);

    std::vector<InstructionCounts> counts_;  // by index of the instruction
    SectorMap sectors_;
    uint64_t atomics_ = 0;
    Request global_, shared_;  // of the instruction that is being executed
    Access global_access_ = Access::read;
};

}  // namespace cudaemu
