#include "device/plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace fomoe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFile = "libfomoe_cuda.so";
constexpr const char* kNone = "this build has no CUDA plugin";

LoadedPlugin entry_of(void* library, const std::string& path) {
    const auto entry = reinterpret_cast<CudaPluginEntry>(dlsym(library, CudaPlugin::kEntry));
    if (!entry) return {.why_not = concat(path, " is not a CUDA plugin of fomoe")};
    const CudaPlugin* plugin = entry();
    if (plugin->version != CudaPlugin::kVersion)
        return {.why_not = concat("the CUDA plugin ", path, " belongs to another build: version ",
                                  plugin->version, ", this one needs ", CudaPlugin::kVersion)};
    return {.plugin = plugin, .why_not = {}};
}

}  // namespace

LoadedPlugin load_cuda_plugin_at(const std::string& path) {
    std::error_code unreadable;
    if (!fs::exists(path, unreadable)) return {};
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return {.why_not = concat("the CUDA plugin does not load: ", dlerror())};
    return entry_of(library, path);
}

LoadedPlugin load_cuda_plugin() {
    std::error_code unknown;
    const fs::path beside = fs::read_symlink("/proc/self/exe", unknown).parent_path();
    for (const fs::path& folder : {beside, beside / ".." / "lib"}) {
        const LoadedPlugin found = load_cuda_plugin_at((folder / kFile).string());
        if (found.plugin || !found.why_not.empty()) return found;
    }
    if (void* library = dlopen(kFile, RTLD_NOW | RTLD_LOCAL)) return entry_of(library, kFile);
    const std::string error = dlerror();
    // The loader names the file that it lacks: the plugin, or a library that the plugin needs.
    if (error.starts_with(kFile)) return {.why_not = kNone};
    return {.why_not = concat("the CUDA plugin does not load: ", error)};
}

}  // namespace fomoe
