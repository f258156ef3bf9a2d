#include "plan/model.h"

namespace fomoe {

ParameterCounts count_parameters(const ModelConfig& model, const std::vector<Parameter>& all,
                                 const std::vector<Parameter>& held) {
    ParameterCounts n;
    for (const Parameter& p : all) {
        int64_t* const of_class[] = {&n.shared, &n.router, &n.expert};
        *of_class[static_cast<int>(p.cls)] += p.count();
    }
    n.total = n.shared + n.router + n.expert;
    // Experts are alike.
    n.active = n.shared + n.router + n.expert / model.moe.n_experts * model.moe.top_k;
    for (const Parameter& p : held) n.per_rank += p.count();
    return n;
}

}  // namespace fomoe
