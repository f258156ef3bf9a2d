// Which checkpoints of a run stay when another one has been written.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace fomoe {

// A checkpoint stays when one of the rules wants it.
struct Retention {
    int newest = 3;     // so many; 0: all stay
    int64_t every = 0;  // the first at or behind each multiple of so many steps; 0: none
    int best = 0;       // so many with the least loss
};

struct StoredCheckpoint {
    int64_t step = 0;
    std::optional<double> loss;  // held-out, of its union model, where it was measured
};

// The steps of those that go. `stored` ascends by step, and has `written`, which stays and counts
// as the newest whatever its step: a run may have gone on from an earlier one.
std::vector<int64_t> superseded(const std::vector<StoredCheckpoint>& stored, int64_t written,
                                const Retention& keep);

}  // namespace fomoe
