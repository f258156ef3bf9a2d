// What the host code that nvcc generates calls.
#include <cuda_runtime_api.h>

#include "runtime/errors.h"
#include "runtime/launch.h"
#include "runtime/modules.h"

using namespace cudaemu;

namespace {

// Between the <<<>>> of a launch and its kernel.
struct Configuration {
    dim3 grid, block;
    size_t shared = 0;
    cudaStream_t stream = nullptr;
};

Configuration& configuration() {
    thread_local Configuration pushed;
    return pushed;
}

Modules& modules() { return Modules::instance(); }
FatBinary* binary(void** handle) { return reinterpret_cast<FatBinary*>(handle); }

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
    return reinterpret_cast<void**>(modules().add(wrapper));
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void** handle) { modules().remove(binary(handle)); }
char __cudaInitModule(void**) { return 1; }

void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
    modules().add_function(binary(handle), host, name);
}

void __cudaRegisterVar(void** handle, char* host, char*, const char* name, int, size_t, int, int) {
    modules().add_variable(binary(handle), host, name);
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
    configuration() = {grid, block, shared, stream};
    return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    *grid = configuration().grid;
    *block = configuration().block;
    *shared = configuration().shared;
    *static_cast<cudaStream_t*>(stream) = configuration().stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
    return answer([&] { *kernel = modules().handle_of(host); });
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t stream) {
    return answer([&] { launch({kernel, grid, block, shared, arguments, stream}); });
}

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t stream) {
    return answer([&] { launch({function, grid, block, shared, arguments, stream}); });
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
    return answer([&] {
        if (config->numAttrs > 0) refuse(cudaErrorNotSupported);
        launch({function, config->gridDim, config->blockDim, config->dynamicSmemBytes, arguments,
                config->stream});
    });
}

cudaError_t cudaGetKernel(cudaKernel_t* kernel, const void* host) {
    return answer([&] { *kernel = modules().handle_of(host); });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
    return answer([&] { *attributes = function_attributes(function); });
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
    return answer([&] { set_function_attribute(function, attribute, value); });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t dynamic_shared) {
    return answer([&] { *blocks = blocks_per_multiprocessor(function, threads, dynamic_shared); });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void* function, int threads, size_t dynamic_shared, unsigned) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic_shared);
}

}  // extern "C"
