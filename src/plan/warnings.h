// What a plan warns of.
#pragma once

#include "plan/plan.h"

namespace fomoe {

// A sentence each. `plan` is complete but for them.
std::vector<std::string> plan_warnings(const Config& config, const Plan& plan,
                                       const PlanOptions& options);

}  // namespace fomoe
