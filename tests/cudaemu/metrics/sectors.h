// The sectors of device memory that a launch has touched.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "exec/observer.h"

namespace cudaemu {

constexpr uint64_t kSectorBytes = 32;

// Sectors moved, in one direction.
struct Traffic {
    uint64_t read = 0, written = 0;
};

class SectorMap {
public:
    // What each block has of a first-level cache: 16 KiB, first in first out. It keeps what is
    // read; writes, atomics and cp.async go past it.
    static constexpr uint32_t kCachedSectors = 512;

    void block_begins() { block_start_ = fills_; }
    void touch(uint64_t sector, Access access);
    // The other's sectors too.
    void add(const SectorMap& other);

    // Behind the first-level caches: what the second level sees.
    const Traffic& second_level() const { return second_level_; }
    // Each sector once: what device memory sees if the second level holds everything.
    Traffic distinct() const;

private:
    static constexpr uint64_t kPageSectors = 2048;
    struct Page {
        std::array<uint32_t, kPageSectors> filled{};  // number of the fill that brought the sector
        std::bitset<kPageSectors> read, written;
    };
    Page& page(uint64_t number);

    std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
    uint64_t last_number_ = ~uint64_t{0};
    Page* last_ = nullptr;
    uint32_t fills_ = 0, block_start_ = 0;
    Traffic second_level_;
};

}  // namespace cudaemu
