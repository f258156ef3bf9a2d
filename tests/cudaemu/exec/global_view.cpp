// Device addresses seen by one thread of the interpreter.
#include "exec/global_view.h"

namespace cudaemu {

const GlobalView::Range& GlobalView::find(uint64_t address) {
    static const Range none;
    for (const Range& range : ranges_)
        if (range.allocation.contains(address, 1)) return range;
    DeviceMemory& memory = DeviceMemory::instance();
    const DeviceMemory::Allocation allocation = memory.find(address);
    if (!allocation.contains(address, 1)) return none;
    Range& range = ranges_[next_];
    next_ = (next_ + 1) % ranges_.size();
    range = {allocation, memory.alias(allocation.begin)};
    return range;
}

void GlobalView::refresh() {
    const uint64_t generation = DeviceMemory::instance().generation();
    if (generation == generation_) return;
    ranges_ = {};
    generation_ = generation;
}

}  // namespace cudaemu
