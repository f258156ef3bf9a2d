// Why a round changed nothing.
#pragma once

#include <cstdint>
#include <string>

#include "topology/world.h"

namespace fomoe {

enum class FailureKind { none, no_contribution, not_finite, damaged };

struct Failure {
    FailureKind kind = FailureKind::none;
    int group = -1;  // damaged: a message of this group did not arrive as it was sent

    bool operator==(const Failure&) const = default;
};

// Of two, the one that is told: the later kind, of damaged messages that of the later group.
Failure worse(Failure a, Failure b);

// As one word of a message; 0 for none.
uint64_t word_of(Failure failure);
Failure failure_of(uint64_t word);

// "a message of group 'east' arrived damaged"; not for none.
std::string text_of(Failure failure, const World& world);

}  // namespace fomoe
