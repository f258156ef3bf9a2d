// How many parameters a model has, by class.
#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"
#include "model/parameters.h"

namespace fomoe {

struct ParameterCounts {
    int64_t shared = 0, router = 0, expert = 0;
    int64_t active = 0;  // that a token meets: all but the experts that it does not choose

    int64_t total() const { return shared + router + expert; }
};
// Of a table of parameters, or of what one rank holds of it.
ParameterCounts count_parameters(const std::vector<Parameter>& parameters, const MoeConfig& moe);

}  // namespace fomoe
