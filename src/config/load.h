// YAML files and command-line settings -> Config, with every mistake reported at once.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "config/config.h"

namespace fomoe {

struct LoadedConfig {
    Config config;
    // Path of a key that was given -> "file:line:col", or "--set", and the value if it had a unit.
    std::map<std::string, std::string> origins;
    std::vector<std::string> warnings;  // "file:line:col: warning: path.to.key: message"
};

// Files merge left to right (sections and maps by key, lists as a whole), then `sets` ("a.b=c", the
// value is YAML). Throws one Error(Exit::usage) with a line per mistake,
//   file:line:col: error: path.to.key: message
// and "N errors; nothing was started." at the end. Any bytes in, nothing else comes out.
LoadedConfig load_with_origins(const std::vector<std::string>& files,
                               const std::vector<std::string>& sets = {});
Config load_config(const std::vector<std::string>& files,
                   const std::vector<std::string>& sets = {});
// The config.yaml that a run has written, which says everything: the directory of model.from_hf is
// not needed.
Config load_saved_config(const std::string& file);

// Warnings about keys that were given and do nothing on a CPU.
std::vector<std::string> gpu_only_warnings(const LoadedConfig& loaded);

}  // namespace fomoe
