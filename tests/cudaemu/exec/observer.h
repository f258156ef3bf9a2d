// What checked mode sees of an execution. The checker implements it; the executor calls it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cudaemu {

struct Block;        // exec/: the running block
struct Instruction;  // ptx/: the instruction, with its source line and text

// Where something happens.
struct Site {
    const Block* block = nullptr;
    uint32_t thread = 0;  // linear in its block
    const Instruction* instruction = nullptr;
};

enum class Space : uint8_t { global, shared };
// async_write: cp.async was issued; its bytes may not be touched until async_landed.
enum class Access : uint8_t { read, write, atomic, async_read, async_write };

class Observer {
public:
    virtual ~Observer() = default;

    // Of a launch and of each of its blocks, before anything else of them.
    virtual void launch_begins() = 0;
    virtual void block_begins(const Block& block, uint32_t block_index, uint32_t threads,
                              size_t shared_bytes) = 0;

    // `bytes` at `address`: of the device, or an offset into the block's shared memory. The
    // executor has checked bounds and alignment.
    virtual void access(const Site& site, Space space, uint64_t address, uint32_t bytes,
                        Access kind) = 0;
    // A wait of this thread made its cp.async writes to shared [offset, offset + bytes) visible.
    virtual void async_landed(const Site& site, uint64_t offset, uint32_t bytes) = 0;

    // All live threads of the block passed a barrier together; `lanes` of a warp passed a warp
    // barrier (or any other .sync instruction) together.
    virtual void block_barrier(const Block& block) = 0;
    virtual void warp_barrier(const Block& block, uint32_t warp, uint32_t lanes) = 0;
};

}  // namespace cudaemu
