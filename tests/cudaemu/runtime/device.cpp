// Properties of the pretended device.
#include "runtime/device.h"

#include <fmt/format.h>

#include <cstring>

#include "memory/device_memory.h"
#include "runtime/errors.h"
#include "settings.h"

namespace cudaemu {
namespace {

constexpr size_t kKiB = 1024;
constexpr size_t kReservedPerBlock = kKiB;  // shared memory that the system takes

}  // namespace

size_t shared_per_multiprocessor() {
    switch (settings().compute_capability) {
        case 70:
            return 96 * kKiB;
        case 75:
            return 64 * kKiB;
        case 80:
            return 164 * kKiB;
        case 87:
            return 164 * kKiB;
        case 86:
        case 89:
        case 120:
            return 100 * kKiB;
        default:
            return 228 * kKiB;
    }
}

size_t shared_opt_in() {
    const size_t all = shared_per_multiprocessor();
    return settings().compute_capability < 80 ? all : all - kReservedPerBlock;
}

int threads_per_multiprocessor() {
    switch (settings().compute_capability) {
        case 75:
            return 1024;
        case 86:
        case 87:
        case 89:
        case 120:
            return 1536;
        default:
            return 2048;
    }
}

void check_device(int device) {
    if (device < 0 || device >= settings().devices) refuse(cudaErrorInvalidDevice);
}

cudaDeviceProp device_properties(int device) {
    cudaDeviceProp properties;
    std::memset(&properties, 0, sizeof properties);
    const std::string name =
        fmt::format("cudaemu (PTX interpreter, compute capability {}.{})",
                    settings().compute_capability / 10, settings().compute_capability % 10);
    std::memcpy(properties.name, name.c_str(), name.size() + 1);
    const auto value = [device](cudaDeviceAttr attribute) {
        return device_attribute(attribute, device);
    };
    std::memcpy(properties.uuid.bytes, "cudaemu", 7);
    properties.uuid.bytes[15] = char(device);
    properties.totalGlobalMem = DeviceMemory::instance().capacity();
    properties.sharedMemPerBlock = kSharedWithoutOptIn;
    properties.sharedMemPerBlockOptin = shared_opt_in();
    properties.sharedMemPerMultiprocessor = shared_per_multiprocessor();
    properties.reservedSharedMemPerBlock = value(cudaDevAttrReservedSharedMemoryPerBlock);
    properties.regsPerBlock = value(cudaDevAttrMaxRegistersPerBlock);
    properties.regsPerMultiprocessor = value(cudaDevAttrMaxRegistersPerMultiprocessor);
    properties.warpSize = value(cudaDevAttrWarpSize);
    properties.memPitch = value(cudaDevAttrMaxPitch);
    properties.maxThreadsPerBlock = value(cudaDevAttrMaxThreadsPerBlock);
    properties.maxThreadsDim[0] = value(cudaDevAttrMaxBlockDimX);
    properties.maxThreadsDim[1] = value(cudaDevAttrMaxBlockDimY);
    properties.maxThreadsDim[2] = value(cudaDevAttrMaxBlockDimZ);
    properties.maxGridSize[0] = value(cudaDevAttrMaxGridDimX);
    properties.maxGridSize[1] = value(cudaDevAttrMaxGridDimY);
    properties.maxGridSize[2] = value(cudaDevAttrMaxGridDimZ);
    properties.totalConstMem = value(cudaDevAttrTotalConstantMemory);
    properties.major = value(cudaDevAttrComputeCapabilityMajor);
    properties.minor = value(cudaDevAttrComputeCapabilityMinor);
    properties.textureAlignment = value(cudaDevAttrTextureAlignment);
    properties.multiProcessorCount = value(cudaDevAttrMultiProcessorCount);
    properties.maxThreadsPerMultiProcessor = value(cudaDevAttrMaxThreadsPerMultiProcessor);
    properties.maxBlocksPerMultiProcessor = value(cudaDevAttrMaxBlocksPerMultiprocessor);
    properties.concurrentKernels = 1;
    properties.asyncEngineCount = value(cudaDevAttrAsyncEngineCount);
    properties.unifiedAddressing = 1;
    properties.l2CacheSize = value(cudaDevAttrL2CacheSize);
    properties.streamPrioritiesSupported = 1;
    properties.hostRegisterSupported = 1;
    properties.pciBusID = device + 1;
    return properties;
}

int device_attribute(cudaDeviceAttr attribute, int device) {
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock:
            return 1024;
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY:
            return 1024;
        case cudaDevAttrMaxBlockDimZ:
            return 64;
        case cudaDevAttrMaxGridDimX:
            return 2147483647;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ:
            return 65535;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            return int(kSharedWithoutOptIn);
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            return int(shared_opt_in());
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            return int(shared_per_multiprocessor());
        case cudaDevAttrReservedSharedMemoryPerBlock:
            return settings().compute_capability < 80 ? 0 : int(kReservedPerBlock);
        case cudaDevAttrTotalConstantMemory:
            return 64 * kKiB;
        case cudaDevAttrWarpSize:
            return 32;
        case cudaDevAttrMaxPitch:
            return 2147483647;
        case cudaDevAttrMaxRegistersPerBlock:
            return 65536;
        case cudaDevAttrMaxRegistersPerMultiprocessor:
            return 65536;
        case cudaDevAttrTextureAlignment:
            return 512;
        case cudaDevAttrMultiProcessorCount:
            return kMultiprocessors;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            return threads_per_multiprocessor();
        case cudaDevAttrMaxBlocksPerMultiprocessor:
            return 32;
        case cudaDevAttrComputeCapabilityMajor:
            return settings().compute_capability / 10;
        case cudaDevAttrComputeCapabilityMinor:
            return settings().compute_capability % 10;
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrUnifiedAddressing:
            return 1;
        case cudaDevAttrStreamPrioritiesSupported:
        case cudaDevAttrHostRegisterSupported:
            return 1;
        case cudaDevAttrAsyncEngineCount:
            return 2;
        case cudaDevAttrPciBusId:
            return device + 1;
        case cudaDevAttrL2CacheSize:
            return int(4 * kKiB * kKiB);
        default:
            return 0;  // what this device does not have
    }
}

}  // namespace cudaemu
