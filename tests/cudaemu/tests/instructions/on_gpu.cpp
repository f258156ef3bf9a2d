// The interpreter's interface on a GPU, so that the tests of its instructions can be held against
// the hardware. The driver is loaded at run time: linked, it would have to be there at every start.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "exec/execute.h"
#include "memory/device_memory.h"
#include "ptx/module.h"

namespace cudaemu {

namespace {

// cuda.h is not needed for the few functions here; all return 0 for success.
template <class Function>
Function* driver(const char* name) {
    static void* const library = dlopen("libcuda.so.1", RTLD_NOW);
    void* const found = library ? dlsym(library, name) : nullptr;
    if (!found) {
        std::fprintf(stderr, "no CUDA driver with %s\n", name);
        std::exit(2);
    }
    return reinterpret_cast<Function*>(found);
}

template <class... Arguments>
void call(const char* name, Arguments... arguments) {
    const int error = driver<int(Arguments...)>(name)(arguments...);
    if (error) throw Fault(std::string(name) + ": error " + std::to_string(error));
}

}  // namespace

struct Kernel {
    void* module = nullptr;
    void* function = nullptr;

    explicit Kernel(const char* text) {
        call("cuModuleLoadData", &module, static_cast<const void*>(text));
        call("cuModuleGetFunction", &function, module, "test");
    }
    ~Kernel() { driver<int(void*)>("cuModuleUnload")(module); }
};

DeviceMemory::DeviceMemory() {
    void* context = nullptr;
    call("cuInit", 0u);
    call("cuDevicePrimaryCtxRetain", &context, 0);
    call("cuCtxSetCurrent", context);
}

DeviceMemory& DeviceMemory::instance() {
    static DeviceMemory memory;
    return memory;
}

uint64_t DeviceMemory::allocate(size_t bytes) {
    unsigned long long address = 0;
    call("cuMemAllocManaged", &address, bytes, 1u);
    return address;
}

bool DeviceMemory::release(uint64_t address) {
    return driver<int(unsigned long long)>("cuMemFree_v2")(address) == 0;
}

std::unique_ptr<Module> parse(std::string_view ptx) {
    DeviceMemory::instance();
    auto module = std::make_unique<Module>();
    module->kernels["test"] = std::make_shared<Kernel>(std::string(ptx).c_str());
    return module;
}

void execute(const Kernel& kernel, const Launch& launch) {
    size_t bytes = launch.params.size();
    // CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE and _END.
    void* extra[] = {reinterpret_cast<void*>(1), const_cast<std::byte*>(launch.params.data()),
                     reinterpret_cast<void*>(2), &bytes, nullptr};
    call("cuLaunchKernel", kernel.function, launch.grid.x, launch.grid.y, launch.grid.z,
         launch.block.x, launch.block.y, launch.block.z, unsigned(launch.dynamic_shared),
         static_cast<void*>(nullptr), static_cast<void**>(nullptr), static_cast<void**>(extra));
    call("cuCtxSynchronize");
}

}  // namespace cudaemu
