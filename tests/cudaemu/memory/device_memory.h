// The memory of the device: a range of addresses that host code cannot touch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <shared_mutex>

namespace cudaemu {

// Device addresses lie in a PROT_NONE range; the interpreter reads and writes the same pages
// through an alias. Addresses are never handed out twice.
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
            return address >= begin && bytes <= end - begin &&
                   address - begin <= end - begin - bytes;
        }
    };
    // The live allocation that holds this address, or one with begin == end. Thread-safe.
    Allocation find(uint64_t address) const;
    // Changes with every allocate and release: an Allocation found before may be stale.
    uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

    // Whether the address is of the device at all.
    bool owns(uint64_t address) const { return address - begin_ < kRange; }
    // Where the interpreter reaches it. No check.
    std::byte* alias(uint64_t address) const { return alias_ + (address - begin_); }

    size_t capacity() const { return capacity_; }  // bytes; CUDAEMU_MEMORY, in MiB
    size_t used() const;                           // bytes, in whole pages

private:
    DeviceMemory();

    static constexpr uint64_t kRange = uint64_t{1} << 40;  // bytes of addresses
    static constexpr uint64_t kPage = 4096;

    int file_ = -1;       // what both mappings show
    uint64_t begin_ = 0;  // of the PROT_NONE range
    std::byte* alias_ = nullptr;
    size_t capacity_ = 0;
    std::atomic<uint64_t> generation_{1};

    mutable std::shared_mutex mutex_;           // of what follows
    std::map<uint64_t, uint64_t> allocations_;  // begin -> end
    uint64_t next_ = 0;
    size_t used_ = 0;
};

}  // namespace cudaemu
