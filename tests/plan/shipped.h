// The configs that the program comes with.
#pragma once

#include "config/load.h"
#include "data/tokenizer.h"
#include "plan/plan.h"

namespace fomoe {

inline Config shipped(const std::string& name, const std::vector<std::string>& sets = {}) {
    Config config =
        load_config({std::string(FOMOE_SOURCE_DIR) + "/configs/" + name + ".yaml"}, sets);
    config.model.vocab_size = vocab_size(config.model);
    return config;
}

inline Plan plan_of_shipped(const std::string& name, const std::vector<std::string>& sets = {}) {
    return make_plan(shipped(name, sets), {});
}

// So many groups of one rank: --set topology.groups=...
inline std::string single_groups(int n) {
    std::string text = "topology.groups=[";
    for (int i = 0; i < n; ++i) text += concat(i ? ", " : "", "{name: g", i, "}");
    return text + "]";
}

}  // namespace fomoe
