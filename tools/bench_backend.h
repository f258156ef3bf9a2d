// The backend that a benchmark is asked for.
#pragma once

#include <filesystem>

#include "device/plugin.h"

namespace fomoe {

// `name`: cpu, with this many threads, or cuda: the first GPU. Benchmarks are built into a folder
// beside the plugin's.
inline std::unique_ptr<Backend> bench_backend(const std::string& name, int threads,
                                              bool tf32 = false) {
    if (name == "cpu") return make_cpu_backend(threads);
    const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path();
    const LoadedPlugin loaded = load_cuda_plugin_at(folder / "libfomoe_cuda.so");
    if (!loaded.plugin)
        throw Error(Exit::internal, concat("--backend cuda: no CUDA plugin in ", folder.string(),
                                           ' ', loaded.why_not));
    loaded.plugin->device_count();
    return loaded.plugin->open({.tf32 = tf32});
}

}  // namespace fomoe
