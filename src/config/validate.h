// Rules that tie several keys together. Reads no files.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"

namespace fomoe {

struct Problem {
    std::string path;  // the key to point at
    std::string message;
    std::vector<std::string> also;  // other keys that the rule reads
};

std::vector<Problem> validate(const Config& config);
// Those of them that are about train, and about the phases of a run.
std::vector<Problem> train_problems(const Config& config);
std::vector<Problem> phase_problems(const Config& config);

}  // namespace fomoe
