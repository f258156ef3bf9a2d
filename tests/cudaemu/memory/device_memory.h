// The memory of the device: a range of addresses that host code cannot touch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cudaemu {

// Device addresses lie in a PROT_NONE range; the interpreter reads and writes the same pages through
// an alias. Addresses are never handed out twice.
class DeviceMemory {
public:
    static DeviceMemory& instance();

    // 0 when `bytes` does not fit into the device any more. 256-byte aligned, filled with 0xff.
    uint64_t allocate(size_t bytes);
    // False when nothing was allocated at this address.
    bool release(uint64_t address);

    struct Allocation {
        uint64_t begin = 0, end = 0;  // addresses
        bool contains(uint64_t address, size_t bytes) const {
            return address >= begin && bytes <= end - begin && address - begin <= end - begin - bytes;
        }
    };
    // The live allocation that holds this address, or one with begin == end. Thread-safe.
    Allocation find(uint64_t address) const;
    // Changes with every allocate and release: an Allocation found before may be stale.
    uint64_t generation() const;

    // Whether the address is of the device at all.
    bool owns(uint64_t address) const;
    // Where the interpreter reaches it. No check.
    std::byte* alias(uint64_t address) const;

    size_t capacity() const;  // bytes; CUDAEMU_MEMORY, in MiB
    size_t used() const;

private:
    DeviceMemory();
};

}  // namespace cudaemu
