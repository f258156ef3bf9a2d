// Device memory for the host functions of other replacement libraries.
#include "runtime/libraries.h"

#include <fmt/format.h>

#include <memory>
#include <optional>

#include "check/checker.h"
#include "check/findings.h"
#include "memory/device_memory.h"
#include "runtime/counting.h"
#include "runtime/errors.h"
#include "runtime/streams.h"

cudaError_t cudaemu_launch_host_work(cudaStream_t stream, void (*work)(void*), void* data,
                                     void (*release)(void*)) {
    using namespace cudaemu;
    const std::shared_ptr<void> owned(data, release);
    return answer([&] {
        count(&cudaemu_counts::host_functions);
        Streams::instance().issue(stream, take_description(),
                                  [work, owned](const Operation&) { work(owned.get()); });
    });
}

void* cudaemu_reach(const void* pointer, size_t bytes, int access, const char* what) {
    using namespace cudaemu;
    DeviceMemory& memory = DeviceMemory::instance();
    const auto address = reinterpret_cast<uint64_t>(pointer);
    if (!memory.find(address).contains(address, bytes)) {
        report(fmt::format("{}: {} bytes that are not of one device allocation", what, bytes));
        return nullptr;
    }
    Checker& checker = Checker::instance();
    const Operation* operation = running_operation();
    if (checker.enabled() && operation) {
        Operation named = *operation;
        named.name = what;
        const Checker::Running running(checker, named);
        if (access & cudaemu_read) checker.reads(address, bytes);
        if (access & cudaemu_write) checker.writes(address, bytes);
    }
    return memory.alias(address);
}

int cudaemu_is_device(const void* address) {
    return cudaemu::DeviceMemory::instance().owns(reinterpret_cast<uint64_t>(address));
}

void cudaemu_run_again() { cudaemu::run_again(); }

void cudaemu_advance(cudaStream_t stream) {
    try {
        cudaemu::Streams::instance().advance(stream);
    } catch (const cudaemu::Refusal&) {
        // The stream is gone, and so is its work.
    }
}

void cudaemu_report(const char* finding) { cudaemu::report(finding); }
