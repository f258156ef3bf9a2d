// A CUDA plugin of another build.
#include "ops/cuda_plugin.h"

extern "C" const fomoe::CudaPlugin* fomoe_cuda_plugin() {
    static const fomoe::CudaPlugin plugin{.version = fomoe::CudaPlugin::kVersion + 1};
    return &plugin;
}
