// The address spaces of a thread.
#pragma once

#include <cstdint>

namespace cudaemu {

enum class StateSpace : uint32_t { generic, global, shared, local, param };

// Generic addresses of shared, local and parameter memory lie in windows far above those of the
// device; .global and .const are their own generic addresses.
constexpr uint64_t kWindow = uint64_t{1} << 60;
// Windows begin here, so that the low half of a generic address is no address of shared memory.
constexpr uint64_t kWindowStart = 0x70000000;

constexpr uint64_t window(StateSpace space) {
    return space == StateSpace::shared  ? kWindow + kWindowStart
           : space == StateSpace::local ? 2 * kWindow + kWindowStart
           : space == StateSpace::param ? 3 * kWindow + kWindowStart
                                        : 0;
}

// The space that a generic address lies in.
constexpr StateSpace space_of(uint64_t generic) {
    switch (generic / kWindow) {
        case 1:
            return StateSpace::shared;
        case 2:
            return StateSpace::local;
        case 3:
            return StateSpace::param;
        default:
            return StateSpace::global;
    }
}

}  // namespace cudaemu
