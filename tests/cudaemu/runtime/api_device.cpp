// The functions of the API for errors and devices.
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "check/checker.h"
#include "check/findings.h"
#include "runtime/allocations.h"
#include "runtime/device.h"
#include "runtime/error_names.h"
#include "runtime/errors.h"
#include "runtime/streams.h"
#include "settings.h"

using namespace cudaemu;

namespace {

int& current_device() {
    thread_local int device = 0;
    return device;
}

// There is no driver library behind this runtime.
cudaError_t no_driver_function(void** function, cudaDriverEntryPointQueryResult* result) {
    *function = nullptr;
    if (result) *result = cudaDriverEntryPointSymbolNotFound;
    return answer([] { refuse(cudaErrorNotSupported); });
}

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() { return last_error(true); }
cudaError_t cudaPeekAtLastError() { return last_error(false); }
const char* cudaGetErrorName(cudaError_t code) { return error_name(code); }
const char* cudaGetErrorString(cudaError_t code) { return error_text(code); }

// Nothing is written when there is an error.
cudaError_t cudaGetDeviceCount(int* devices) {
    return answer([&] { *devices = settings().devices; });
}

cudaError_t cudaSetDevice(int device) {
    return answer([&] {
        check_device(device);
        current_device() = device;
    });
}

cudaError_t cudaGetDevice(int* device) {
    return answer([&] { *device = current_device(); });
}

cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
    return answer([&] { check_device(device); });
}

cudaError_t cudaSetDeviceFlags(unsigned) {
    return answer([] {});
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    return answer([&] {
        check_device(device);
        *properties = device_properties(device);
    });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    return answer([&] {
        check_device(device);
        *value = device_attribute(attribute, device);
    });
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
    return answer([&] {
        check_device(device);
        const std::string id = fmt::format("0000:{:02X}:00.0", device + 1);
        if (!text || length <= int(id.size())) refuse(cudaErrorInvalidValue);
        std::memcpy(text, id.c_str(), id.size() + 1);
    });
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
    return answer([&] {
        check_device(device);
        check_device(peer);
        *can = 0;
    });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = kRuntimeVersion;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    const Driver driver = settings().driver;
    constexpr int kOldVersion = 11040;
    *version = driver == Driver::missing ? 0
               : driver == Driver::old   ? kOldVersion
                                         : kRuntimeVersion;
    return cudaSuccess;
}

// The only function that ends an error that sticks. Memory is freed, work that has not run is lost
// after such an error and done otherwise; streams and events live on.
cudaError_t cudaDeviceReset() {
    if (const cudaError_t code = unusable(); code != cudaSuccess) return remember(code);
    Streams::instance().end_captures();
    Streams::instance().wait_for_all("cudaDeviceReset");
    Allocations::instance().free_all_device();
    set_sticky_error(cudaSuccess);
    return cudaSuccess;
}

cudaError_t cudaProfilerStart() {
    return answer([] {});
}

cudaError_t cudaProfilerStop() {
    return answer([] {});
}

cudaError_t cudaGetDriverEntryPoint(const char*, void** function, unsigned long long,
                                    cudaDriverEntryPointQueryResult* result) {
    return no_driver_function(function, result);
}

cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
    return no_driver_function(function, result);
}

void cudaemu_set_checked(int on) { Checker::instance().enable(on != 0); }

}  // extern "C"
