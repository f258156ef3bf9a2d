#include "plan/model.h"

namespace fomoe {

ParameterCounts count_parameters(const std::vector<Parameter>& parameters, const MoeConfig& moe) {
    ParameterCounts counts;
    for (const Parameter& p : parameters) {
        int64_t* const of_class[] = {&counts.shared, &counts.router, &counts.expert};
        *of_class[static_cast<int>(p.cls)] += p.count();
    }
    // Experts are alike.
    counts.active = counts.shared + counts.router + counts.expert / moe.n_experts * moe.top_k;
    return counts;
}

}  // namespace fomoe
