// Which experts the tokens of each domain choose.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/loader.h"
#include "eval/union_model.h"

namespace fomoe {

struct ExpertUse {
    std::vector<int> layers;  // that have experts
    // By domain: of the choices of its tokens in a layer, the share of each expert; not a number
    // where no token counts.
    std::map<std::string, std::vector<std::vector<double>>> shares;

    std::string table() const;  // lines
    std::string json() const;   // one object
};

// Of the model in use, on held-out text; tokens without a target do not count. Collective over its
// ranks, which share the sequences; all get the result.
ExpertUse expert_use(UnionModel& model, const ValidLoader& data);

}  // namespace fomoe
