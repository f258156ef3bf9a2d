// Who takes part in a round: the classes and moments whose period ends, and the groups whose
// contribution counts.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "config/config.h"
#include "federation/owned_span.h"

namespace fomoe {

using Classes = std::array<bool, 3>;  // by ParamClass
inline constexpr Classes kAllClasses{true, true, true};

// AdamW's moments: the first, m, and the second, v.
inline constexpr int kMoments = 2;
using Moments = std::array<bool, kMoments>;
inline constexpr Moments kNoMoments{false, false}, kAllMoments{true, true};

// Steps between the exchanges of a class.
int period_of(const FederationConfig& config, ParamClass cls);
// Whether all classes are exchanged in every round.
bool one_period(const FederationConfig& config);
// The classes whose period ends with this step, counted from 1. None: no round ends here.
Classes classes_due(const FederationConfig& config, int64_t step);

// The moments whose period ends with this step; none unless the config averages them.
Moments moments_due(const FederationConfig& config, int64_t step);

struct Participants {
    Classes classes = kAllClasses;
    Moments moments = kNoMoments;
    std::vector<bool> groups;

    bool has(ParamClass cls) const { return classes[static_cast<int>(cls)]; }
    // A span is stepped when its class takes part and some owner contributes.
    bool step(const OwnedSpan& span) const;
};

// What a group wants to contribute, as all groups know it.
struct Offer {
    bool finite = true;
    double norm = 0;  // ||local - anchor|| over all that takes part
};

// By group: whether its contribution counts. Those that are not finite are left out, and with
// reject_above > 0 those whose norm is above so many times the median of the finite ones; of an
// even number the lower middle one. A group with norm 0 does not count in the median.
std::vector<bool> contributors(std::span<const Offer> offers, double reject_above);

}  // namespace fomoe
