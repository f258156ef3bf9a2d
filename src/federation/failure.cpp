// Order, words and texts of failures.
#include "federation/failure.h"

#include <algorithm>

#include "base/error.h"

namespace fomoe {

namespace {

constexpr uint64_t kGroups = uint64_t{1} << 32;  // room for the group below the kind

}  // namespace

// The words are in the order of what is worse.
Failure worse(Failure a, Failure b) { return failure_of(std::max(word_of(a), word_of(b))); }

uint64_t word_of(Failure failure) {
    return static_cast<uint64_t>(failure.kind) * kGroups + static_cast<uint64_t>(failure.group + 1);
}

Failure failure_of(uint64_t word) {
    return {.kind = static_cast<FailureKind>(word / kGroups),
            .group = static_cast<int>(word % kGroups) - 1};
}

std::string text_of(Failure failure, const World& world) {
    switch (failure.kind) {
        case FailureKind::none:
            break;
        case FailureKind::no_contribution:
            return "no group had a finite contribution";
        case FailureKind::not_finite:
            return "its result was not finite";
        case FailureKind::damaged:
            return concat("a message of group '", world.groups.at(failure.group).name,
                          "' arrived damaged");
    }
    FOMOE_CHECK(false, "nothing failed");
    return "";
}

}  // namespace fomoe
