// The layout of the frozen copies.
#include "model/frozen.h"

#include <algorithm>

namespace fomoe {

std::vector<int> absent_experts(const Placement& placement, int layer, int group) {
    std::vector<int> absent;
    for (int expert = 0; expert < placement.n_experts(); ++expert)
        if (placement.slot(layer, group, expert) < 0) absent.push_back(expert);
    return absent;
}

FrozenLayout frozen_layout(const std::vector<Parameter>& all, const Placement& placement,
                           const World& world) {
    FrozenLayout layout;
    for (const Parameter& p : all) {
        if (p.cls != ParamClass::expert) continue;
        const std::vector<int> absent = absent_experts(placement, p.layer, world.group);
        const auto at = std::ranges::lower_bound(absent, p.expert);
        if (at == absent.end() || *at != p.expert) continue;
        const Range own =
            World::shard_slots(world.own(), static_cast<int>(absent.size()), world.shard());
        const int64_t slot = at - absent.begin();
        if (slot < own.begin || slot >= own.end) continue;
        layout.parameters.push_back(p);
        layout.parameters.back().offset = layout.size;
        layout.size += p.count();
    }
    return layout;
}

void initial_copies(const Parameter& parameter, uint64_t seed, int64_t begin, int64_t n,
                    bf16* out) {
    std::vector<float> values(n);
    initial_values(parameter, seed, begin, n, values.data());
    std::ranges::transform(values, out, to_bf16);
}

}  // namespace fomoe
