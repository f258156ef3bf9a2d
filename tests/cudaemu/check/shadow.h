// What checked mode remembers of each byte of memory: who wrote it last and who read it last.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cudaemu {

// When and by whom. Sections are numbered in the order in which they run: a new one begins with
// each operation of a stream, with each block of a launch and behind each barrier of a block.
struct Stamp {
    uint32_t section = 0;
    uint32_t thread : 10 = 0;  // linear in its block
    uint32_t epoch : 20 = 0;   // warp barriers that its warp had passed in the section
    uint32_t kind : 2 = 0;     // WriteKind or Readers
};
enum WriteKind : uint32_t { kPlain, kAtomic, kPending };
// Who else has read since the last write, unordered with the reader that the stamp names.
enum Readers : uint32_t { kAlone, kLanes, kWarps, kBlocks };

struct Cell {
    Stamp write, read;
};

constexpr uint32_t kUntouched = 0;  // section of bytes that nobody has written
constexpr uint32_t kBeginning = 1;  // section of what was there before checked mode

// A cell for each granule of a piece of memory. Granules start as large as asked for and are cut
// when an access does not fit them: to 4 bytes, or to fewer where accesses are smaller.
class Tile {
public:
    Tile(uint32_t bytes, uint32_t granule_bits, Cell initial)
        : bits_(granule_bits), cells_(bytes >> granule_bits, initial) {}

    // Calls visit(cell, offset of the cell, its bytes) for the cells of [offset, offset + bytes).
    template <typename Visit>
    void visit(uint32_t offset, uint32_t bytes, Visit visit) {
        if ((offset | bytes) & ((1u << bits_) - 1))
            cut(std::min(uint32_t(std::countr_zero(offset | bytes)), kWordBits));
        const uint32_t end = (offset + bytes) >> bits_;
        for (uint32_t i = offset >> bits_; i < end; ++i) visit(cells_[i], i << bits_, 1u << bits_);
    }
    size_t bytes() const { return cells_.size() << bits_; }

    static constexpr uint32_t kWordBits = 2;

private:
    void cut(uint32_t bits) {
        std::vector<Cell> fine(cells_.size() << (bits_ - bits));
        for (size_t i = 0; i < fine.size(); ++i) fine[i] = cells_[i >> (bits_ - bits)];
        cells_ = std::move(fine);
        bits_ = bits;
    }

    uint32_t bits_;
    std::vector<Cell> cells_;
};

// The device memory, in tiles of a page that are made when something touches them.
class Shadow {
public:
    // Calls visit(cell, address of the cell, its bytes) for the cells of a range.
    template <typename Visit>
    void visit(uint64_t address, uint64_t bytes, Visit visit) {
        while (bytes > 0) {
            const uint32_t offset = uint32_t(address % kPage);
            const uint32_t part = uint32_t(std::min<uint64_t>(bytes, kPage - offset));
            const uint64_t page = address - offset;
            tile_of(address / kPage)
                .visit(offset, part, [&](Cell& cell, uint32_t at, uint32_t size) {
                    visit(cell, page + at, size);
                });
            address += part;
            bytes -= part;
        }
    }

    // Forgets everything; what lies below `tracked_from` counts as written.
    void restart(uint64_t tracked_from) {
        tiles_.clear();
        last_ = nullptr;
        tracked_from_ = tracked_from;
    }
    void forget(uint64_t begin, uint64_t end) {
        last_ = nullptr;
        for (uint64_t page = begin / kPage; page <= (end - 1) / kPage; ++page) tiles_.erase(page);
    }

    static constexpr uint32_t kPageBits = 12;
    static constexpr uint32_t kPage = 1u << kPageBits;

private:
    Tile& tile_of(uint64_t page) {
        if (last_ && page == last_page_) return *last_;
        std::unique_ptr<Tile>& tile = tiles_[page];
        if (!tile) {
            Cell initial;
            initial.write.section = page * kPage < tracked_from_ ? kBeginning : kUntouched;
            tile = std::make_unique<Tile>(kPage, kPageBits, initial);
        }
        last_page_ = page;
        return *(last_ = tile.get());
    }

    std::unordered_map<uint64_t, std::unique_ptr<Tile>> tiles_;  // by page number
    uint64_t tracked_from_ = 0;
    uint64_t last_page_ = 0;
    Tile* last_ = nullptr;
};

}  // namespace cudaemu
