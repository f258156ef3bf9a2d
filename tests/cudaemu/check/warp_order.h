// Which accesses of a warp's lanes its barriers have ordered.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>

namespace cudaemu {

// Epochs count the barriers of the warp, whichever lanes take part. An access of lane `a` in epoch
// e is ordered before lane `b` when b has since passed a barrier with a, or with a lane that had,
// ...
class WarpOrder {
public:
    static constexpr uint32_t kLastEpoch = (1u << 20) - 1;  // counting ends here

    void reset(uint32_t all_lanes) {
        all_ = all_lanes;
        restart();
    }
    void restart() {
        epoch_ = full_ = 0;
        partial_.reset();
    }
    uint32_t epoch() const { return epoch_; }  // now

    void barrier(uint32_t lanes) {
        if (epoch_ < kLastEpoch) ++epoch_;
        if (lanes == all_) {
            full_ = epoch_;
            partial_.reset();
            return;
        }
        if (!partial_) partial_ = std::make_unique<Matrix>();
        std::array<uint32_t, 32> joined{};
        for (uint32_t rest = lanes; rest; rest &= rest - 1) {
            const auto& row = (*partial_)[std::countr_zero(rest)];
            for (int i = 0; i < 32; ++i) joined[i] = std::max(joined[i], row[i]);
        }
        for (uint32_t rest = lanes; rest; rest &= rest - 1) joined[std::countr_zero(rest)] = epoch_;
        for (uint32_t rest = lanes; rest; rest &= rest - 1)
            (*partial_)[std::countr_zero(rest)] = joined;
    }

    // Whether what lane `earlier` did in `epoch` is ordered before what lane `later` does now.
    bool ordered(uint32_t earlier, uint32_t epoch, uint32_t later) const {
        if (epoch < full_ || epoch == kLastEpoch) return true;
        return partial_ && epoch < (*partial_)[later][earlier];
    }

private:
    // Row of the later lane, column of the earlier one: the epoch that their last barrier began.
    using Matrix = std::array<std::array<uint32_t, 32>, 32>;

    uint32_t all_ = 0;
    uint32_t epoch_ = 0;
    uint32_t full_ = 0;  // the epoch that the last barrier of all lanes began
    std::unique_ptr<Matrix> partial_;
};

}  // namespace cudaemu
