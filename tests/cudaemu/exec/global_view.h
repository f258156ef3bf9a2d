// Device addresses seen by one thread of the interpreter.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "memory/device_memory.h"

namespace cudaemu {

// Remembers the allocations used last, so that most accesses ask nobody.
class GlobalView {
public:
    struct Range {
        DeviceMemory::Allocation allocation;
        std::byte* alias = nullptr;  // of allocation.begin

        std::byte* at(uint64_t address) const { return alias + (address - allocation.begin); }
    };

    // The live allocation that holds this address; empty when there is none.
    const Range& find(uint64_t address);
    // Allocations may have come and gone: of a block that begins.
    void refresh();

private:
    std::array<Range, 8> ranges_;
    size_t next_ = 0;  // to be replaced
    uint64_t generation_ = ~uint64_t{0};
};

}  // namespace cudaemu
