// A copy of what a rank saves, so that the run may go on while it is written.
#pragma once

#include <vector>

#include "checkpoint/pieces.h"
#include "ops/pinned_memory.h"

namespace fomoe {

class Snapshot {
public:
    // The backend outlives it.
    explicit Snapshot(Backend& backend) : backend_(backend) {}

    // Copies what the pieces hold, and lets them point to the copy: until the next one is taken.
    // The memory stays.
    void take(std::vector<TensorSet>& sets);
    int64_t bytes() const { return capacity_; }

private:
    Backend& backend_;
    PinnedMemory memory_;
    int64_t capacity_ = 0;
};

}  // namespace fomoe
