// Device memory that ops keep beside their operands: grows in the first steps, then stays.
#pragma once

#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace fomoe {

// Of one stream. Pieces are valid until the next reset(); work already on the stream may go on
// using them, since what comes later on the stream runs later.
class Scratch {
public:
    Scratch(std::function<void*(int64_t)> allocate, std::function<void(void*)> release)
        : allocate_(std::move(allocate)), release_(std::move(release)) {}
    ~Scratch() { release_blocks(); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Before each op. Blocks that were added one by one become one block.
    void reset() {
        if (blocks_.size() > 1) {
            const int64_t all = bytes();
            release_blocks();
            add_block(all);
        }
        used_ = 0;
    }

    // `count` elements, aligned to 256 bytes.
    template <class T>
    T* take(int64_t count) {
        const int64_t size = (count * int64_t{sizeof(T)} + kAlign - 1) / kAlign * kAlign;
        if (blocks_.empty() || used_ + size > blocks_.back().bytes) {
            add_block(size > kSmallest ? size : kSmallest);
            used_ = 0;
        }
        char* piece = static_cast<char*>(blocks_.back().data) + used_;
        used_ += size;
        return reinterpret_cast<T*>(piece);
    }

    int64_t bytes() const {
        int64_t sum = 0;
        for (const Block& block : blocks_) sum += block.bytes;
        return sum;
    }

private:
    static constexpr int64_t kAlign = 256;
    static constexpr int64_t kSmallest = int64_t{1} << 20;
    struct Block {
        void* data;
        int64_t bytes;
    };
    void add_block(int64_t bytes) { blocks_.push_back({allocate_(bytes), bytes}); }
    void release_blocks() {
        for (const Block& block : blocks_) release_(block.data);
        blocks_.clear();
    }

    std::function<void*(int64_t)> allocate_;
    std::function<void(void*)> release_;  // waits for the device
    std::vector<Block> blocks_;
    int64_t used_ = 0;
};

}  // namespace fomoe
