// Checked mode: finds uninitialised reads, races and touched targets of asynchronous copies.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "check/order.h"
#include "check/shadow.h"
#include "check/warp_order.h"
#include "exec/observer.h"

namespace cudaemu {

// Two accesses of one byte race unless they only read, or are both atomic, or are ordered:
// - threads of a block by a block barrier between them, lanes of a warp by a warp barrier too;
// - blocks of a launch by nothing;
// - operations of streams by their order in a stream, by events and by waits of the host.
class Checker : public Observer {
public:
    static Checker& instance();

    bool enabled() const { return enabled_; }
    // Memory that exists at the time counts as initialised.
    void enable(bool on);

    void allocated(uint64_t begin, uint64_t end);
    void released(uint64_t begin, uint64_t end);
    // Not by an operation of a stream: variables of a module.
    void initialised(uint64_t address, uint64_t bytes);

    // While it lives, what is observed belongs to this operation, and to no other thread's. An
    // operation may run in several pieces.
    class Running {
    public:
        Running(Checker& checker, const Operation& operation);

    private:
        std::unique_lock<std::mutex> lock_;
    };

    // An operation other than a kernel touches device memory.
    void reads(uint64_t address, uint64_t bytes);
    void writes(uint64_t address, uint64_t bytes);
    // Uninitialised bytes stay so where they are copied to.
    void copies(uint64_t to, uint64_t from, uint64_t bytes);

    void launch_begins() override;
    void block_begins(const Block& block, uint32_t block_index, uint32_t threads,
                      size_t shared_bytes) override;
    void access(const Site& site, Space space, uint64_t address, uint32_t bytes,
                Access kind) override;
    void async_landed(const Site& site, uint64_t offset, uint32_t bytes) override;
    void block_barrier(const Block& block) override;
    void warp_barrier(const Block& block, uint32_t warp, uint32_t lanes) override;

private:
    enum class Problem : uint8_t { none, uninitialised, pending, race };
    // What an access of a cell found, and the earlier access that it is about.
    struct Verdict {
        Problem problem = Problem::none;
        Stamp other;
        bool other_wrote = false;
    };
    // The access that is being judged.
    struct Now {
        Stamp stamp;
        Access kind = Access::read;
        Space space = Space::global;
        bool reads() const {
            return kind == Access::read || kind == Access::atomic || kind == Access::async_read;
        }
        bool writes() const {
            return kind == Access::write || kind == Access::atomic || kind == Access::async_write;
        }
    };

    Stamp stamp(uint32_t thread) const;
    // Judges the access of a cell and records it there.
    Verdict judge(Cell& cell, const Now& now) const;
    void record_read(Stamp& read, const Now& now) const;
    // Whether the stamp is of these bytes as they are now: shared memory is new in each block.
    bool current(const Stamp& stamp, Space space) const;
    bool ordered(const Stamp& earlier, const Stamp& now) const;
    bool readers_ordered(const Stamp& readers, const Stamp& now) const;
    // Judges all cells of a range of device memory for an operation other than a kernel.
    void touch(uint64_t address, uint64_t bytes, Access kind);

    std::string describe_problem(const Verdict& verdict, const Now& now, uint64_t bytes) const;
    std::string who(const Stamp& stamp) const;

    std::mutex running_;
    std::atomic<bool> enabled_ = false;
    uint64_t top_ = 0;  // above all addresses so far
    Shadow global_;
    Tile shared_{4, Tile::kWordBits, Cell{}};
    Order order_;
    std::set<std::pair<const Instruction*, int>> reported_;  // of this launch, and the problem

    // The running operation, and the running block of a launch.
    const Operation* operation_ = nullptr;
    uint32_t section_ = kBeginning;
    uint32_t operation_begin_ = 0, block_begin_ = 0;  // their first sections
    uint32_t ordered_before_ = 0;  // all earlier sections are ordered before the operation
    struct BlockStart {
        uint32_t section = 0, index = 0;
    };
    std::vector<BlockStart> blocks_;  // of this launch, as they ran
    std::array<WarpOrder, 32> warps_;
};

}  // namespace cudaemu
