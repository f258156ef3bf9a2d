// The CUDA plugin in a test: on a GPU, or on the interpreter, whichever library the loader finds.
#pragma once

#include <dlfcn.h>

#include <cstdlib>

#include "ops/cuda_plugin.h"

namespace fomoe {

inline const CudaPlugin& cuda_plugin() {
    static const CudaPlugin* plugin = [] {
        const char* other = std::getenv("FOMOE_TEST_PLUGIN");  // a variant of it
        void* library =
            dlopen(other ? other : FOMOE_BINARY_DIR "/libfomoe_cuda.so", RTLD_NOW | RTLD_GLOBAL);
        FOMOE_CHECK(library, dlerror());
        return reinterpret_cast<CudaPluginEntry>(dlsym(library, CudaPlugin::kEntry))();
    }();
    return *plugin;
}

// Functions of the interpreter, which comes with the plugin; do nothing on real libraries.
inline void set_checked(bool on) {
    cuda_plugin();
    if (void* found = dlsym(RTLD_DEFAULT, "cudaemu_set_checked"))
        reinterpret_cast<void (*)(int)>(found)(on);
}
inline std::string findings() {
    if (void* found = dlsym(RTLD_DEFAULT, "cudaemu_take_findings"))
        return reinterpret_cast<const char* (*)()>(found)();
    return "";
}

// The next matmuls of cuBLASLt find no algorithm. The plugin loads that library late, and for
// itself.
inline void refuse_matmuls(int calls) {
    void* library = dlopen("libcublasLt.so.13", RTLD_NOW);
    if (void* found = library ? dlsym(library, "cudaemu_refuse_matmuls") : nullptr)
        reinterpret_cast<void (*)(int)>(found)(calls);
}

// What has been launched so far, as findings.h of the interpreter says.
inline std::string launches() {
    if (void* found = dlsym(RTLD_DEFAULT, "cudaemu_launch_counts"))
        return reinterpret_cast<const char* (*)()>(found)();
    return "";
}

}  // namespace fomoe
