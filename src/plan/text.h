// A plan as text for people, and as JSON for programs.
#pragma once

#include "plan/plan.h"

namespace fomoe {

std::string plan_text(const Config& config, const Plan& plan);
// One object; README documents its keys.
std::string plan_json(const Config& config, const Plan& plan);

}  // namespace fomoe
