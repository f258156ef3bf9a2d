// Rules that tie several keys together. Reads no files.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config/config.h"

namespace fomoe {

struct Problem {
    std::string path;  // the key to point at
    std::string message;
    std::vector<std::string> also;  // other keys that the rule reads
};

// `given` says whether a file or setting gave the key, for those that mean nothing without another.
using Given = std::function<bool(const std::string& path)>;
std::vector<Problem> validate(
    const Config& config, const Given& given = [](const std::string&) { return false; });

}  // namespace fomoe
