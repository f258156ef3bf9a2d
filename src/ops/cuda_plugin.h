// What libfomoe_cuda.so exports: src/device finds it with dlsym, cuda/plugin.cpp defines it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "ops/backend.h"

namespace fomoe {

class Communicator;  // comm/communicator.h

struct CudaOptions {
    int device = 0;      // of those this process sees
    bool tf32 = false;   // f32 matmuls of cuBLAS on TF32 tensor cores: 10 bits of mantissa
    bool graphs = true;  // Backend::repeat() records work and replays it
    // Seconds that the host waits for collectives of a group before it gives its peers up; 0: for
    // ever.
    double collective_timeout = 600;
};

struct CudaDevice {
    uint64_t identity = 0;  // the same for the same device in every process that sees it
    uint64_t pci = 0;       // domain << 16 | bus << 8 | device
    int capability = 0;     // 90: compute capability 9.0
};

struct CudaPlugin {
    // Raised with every change of this struct or of an op; another plugin is refused.
    static constexpr int kVersion = 4;
    static constexpr const char* kEntry = "fomoe_cuda_plugin";

    int version = kVersion;

    // Devices that can be used. Throws Error(internal) that says why there is none: no driver, one
    // that is too old, no device.
    int (*device_count)() = nullptr;
    // One line about a device: name, compute capability, memory.
    std::string (*describe)(int device) = nullptr;
    CudaDevice (*device)(int device) = nullptr;
    // Throws Error(internal) for a device that the kernels are not built for.
    std::unique_ptr<Backend> (*open)(const CudaOptions& options) = nullptr;
    // A communicator of the same ranks for tensors of the backend, which open() has made; both
    // outlive it. Collective over `host`. Throws Error(communication). Null: built without NCCL.
    std::unique_ptr<Communicator> (*connect)(Backend& backend, Communicator& host) = nullptr;
};

// The entry: const CudaPlugin* fomoe_cuda_plugin().
using CudaPluginEntry = const CudaPlugin* (*)();

}  // namespace fomoe
