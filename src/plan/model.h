// How many parameters a model has, by class.
#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"
#include "model/parameters.h"

namespace fomoe {

struct ParameterCounts {
    int64_t total = 0, active = 0;  // active: that a token meets, with top_k experts a layer
    int64_t shared = 0, router = 0, expert = 0;
    int64_t per_rank = 0;  // that one rank holds
};
// `all` are the parameters of the model, `held` those of the rank.
ParameterCounts count_parameters(const ModelConfig& model, const std::vector<Parameter>& all,
                                 const std::vector<Parameter>& held);

}  // namespace fomoe
