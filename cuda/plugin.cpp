// The entry of libfomoe_cuda.so: which devices there are, and a backend on one of them.
#include <cstring>

#include "cuda/cuda_backend.h"
#include "cuda/nccl_communicator.h"

namespace fomoe {
namespace {

constexpr int kOldestCapability = 80;

int device_count() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);  // not written on failure
    if (status == cudaErrorInsufficientDriver) {
        int driver = 0, runtime = 0;
        cudaDriverGetVersion(&driver);
        cudaRuntimeGetVersion(&runtime);
        if (driver == 0) throw Error(Exit::internal, "there is no NVIDIA driver on this machine");
        throw Error(Exit::internal,
                    concat("the NVIDIA driver is too old: it serves CUDA ", driver / 1000, '.',
                           driver % 1000 / 10, ", this build needs ", runtime / 1000, '.',
                           runtime % 1000 / 10));
    }
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
        throw Error(Exit::internal, "there is no NVIDIA GPU that this process can see");
    check_cuda(status, "cudaGetDeviceCount");
    return count;
}

std::string describe(int device) {
    cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    return concat(properties.name, ", compute capability ", properties.major, '.', properties.minor,
                  ", ", properties.totalGlobalMem >> 20, " MiB");
}

CudaDevice device(int index) {
    cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    uint64_t halves[2];
    static_assert(sizeof halves == sizeof properties.uuid);
    std::memcpy(halves, &properties.uuid, sizeof halves);
    return {.identity = halves[0] ^ halves[1] << 1,
            .pci = uint64_t(properties.pciDomainID) << 16 | uint64_t(properties.pciBusID) << 8 |
                   uint64_t(properties.pciDeviceID),
            .capability = properties.major * 10 + properties.minor};
}

std::unique_ptr<Backend> open(const CudaOptions& options) {
    if (device(options.device).capability < kOldestCapability)
        throw Error(Exit::internal,
                    concat("device ", options.device, " (", describe(options.device),
                           ") is too old: compute capability 8.0 (A100) or later is needed"));
    return std::make_unique<CudaBackend>(options);
}

std::unique_ptr<Communicator> connect(Backend& backend, Communicator& host) {
    auto* cuda = dynamic_cast<CudaBackend*>(&backend);
    FOMOE_CHECK(cuda, "connect wants the backend that open() has made, not ", backend.name());
    return std::make_unique<NcclCommunicator>(*cuda, host);
}

}  // namespace
}  // namespace fomoe

extern "C" const fomoe::CudaPlugin* fomoe_cuda_plugin() {
    static const fomoe::CudaPlugin plugin{.device_count = fomoe::device_count,
                                          .describe = fomoe::describe,
                                          .device = fomoe::device,
                                          .open = fomoe::open,
                                          .connect = fomoe::connect};
    return &plugin;
}
