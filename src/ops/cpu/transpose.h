// Square blocks of 32-bit words turned in registers.
#pragma once

#include <utility>

#include "ops/cpu/tile.h"

namespace fomoe {

template <int kStep, size_t... kLane>
[[gnu::always_inline]] inline void exchange_lanes(Vec& upper, Vec& lower,
                                                  std::index_sequence<kLane...>) {
    const Vec a = upper, b = lower;
    upper = __builtin_shufflevector(a, b, int(kLane & kStep ? kLanes + kLane - kStep : kLane)...);
    lower = __builtin_shufflevector(a, b, int(kLane & kStep ? kLanes + kLane : kLane + kStep)...);
}

// Element i of rows[j] changes places with element j of rows[i].
template <int kStep = kLanes / 2>
[[gnu::always_inline]] inline void transpose_lanes(Vec* rows) {
    for (int i = 0; i < kLanes; ++i)
        if (!(i & kStep))
            exchange_lanes<kStep>(rows[i], rows[i + kStep], std::make_index_sequence<kLanes>{});
    if constexpr (kStep > 1) transpose_lanes<kStep / 2>(rows);
}

}  // namespace fomoe
