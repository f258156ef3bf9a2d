// Finds and loads the CUDA plugin, a shared library, so that the programs need no CUDA libraries.
#pragma once

#include <string>

#include "ops/cuda_plugin.h"

namespace fomoe {

// The plugin, or why there is none: in words that stand behind "backend cpu" in a log.
struct LoadedPlugin {
    const CudaPlugin* plugin = nullptr;
    std::string why_not;
};

// Looks for libfomoe_cuda.so beside the executable, in ../lib from there, and where the loader
// looks. It stays loaded to the end of the process. Throws nothing.
LoadedPlugin load_cuda_plugin();

// The same for the file of this path; "": it is not there.
LoadedPlugin load_cuda_plugin_at(const std::string& path);

}  // namespace fomoe
