#include "checkpoint/retention.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace fomoe {

std::vector<int64_t> superseded(const std::vector<StoredCheckpoint>& stored, int64_t written,
                                const Retention& keep) {
    if (keep.newest <= 0) return {};
    std::set<int64_t> stay{written};
    for (auto it = stored.rbegin(); it != stored.rend(); ++it)
        if (std::ssize(stay) < keep.newest) stay.insert(it->step);

    int64_t last_multiple = 0;
    for (const auto& [step, loss] : stored) {
        if (keep.every == 0 || step / keep.every <= last_multiple) continue;
        last_multiple = step / keep.every;
        stay.insert(step);
    }

    std::vector<StoredCheckpoint> ranked;
    for (const StoredCheckpoint& one : stored)
        if (one.loss && std::isfinite(*one.loss)) ranked.push_back(one);
    std::ranges::stable_sort(ranked, {}, [](const StoredCheckpoint& one) { return *one.loss; });
    for (int i = 0; i < std::min<int>(keep.best, std::ssize(ranked)); ++i)
        stay.insert(ranked[i].step);

    std::vector<int64_t> going;
    for (const auto& [step, loss] : stored)
        if (!stay.contains(step)) going.push_back(step);
    return going;
}

}  // namespace fomoe
