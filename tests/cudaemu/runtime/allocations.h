// What the program has allocated: device memory and pinned host memory.
#pragma once

#include <driver_types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>

namespace cudaemu {

// Thread-safe.
class Allocations {
public:
    static Allocations& instance();

    void* device(size_t bytes);
    void free_device(void* pointer);
    // All that device() has returned; variables of modules stay.
    void free_all_device();

    void* pinned(size_t bytes);
    void free_pinned(void* pointer);
    void pin(void* pointer, size_t bytes);
    void unpin(void* pointer);

    cudaMemoryType type_of(const void* pointer);

private:
    struct Pinned {
        size_t bytes = 0;
        bool ours = false;
    };

    std::mutex mutex_;
    std::set<uint64_t> device_;
    std::map<uint64_t, Pinned> pinned_;
};

}  // namespace cudaemu
