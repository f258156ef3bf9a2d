// YAML files and command-line settings -> Config, with every mistake reported at once.
#pragma once

#include <string>
#include <vector>

#include "config/config.h"

namespace fomoe {

// Files merge left to right (sections and maps by key, lists as a whole), then `sets` ("a.b=c", the
// value is YAML). Throws one Error(Exit::usage) with a line per mistake,
//   file:line:col: error: path.to.key: message
// and "N errors; nothing was started." at the end.
Config load_config(const std::vector<std::string>& files,
                   const std::vector<std::string>& sets = {});

}  // namespace fomoe
