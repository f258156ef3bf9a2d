// Checks a launch and puts it into its stream.
#include "runtime/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>

#include "check/checker.h"
#include "check/findings.h"
#include "metrics/meter.h"
#include "metrics/metrics.h"
#include "ptx/kernel.h"
#include "runtime/counting.h"
#include "runtime/device.h"
#include "runtime/errors.h"
#include "runtime/modules.h"
#include "runtime/streams.h"
#include "settings.h"

namespace cudaemu {
namespace {

void check_shape(const KernelInfo& kernel, const LaunchRequest& request) {
    const auto [grid, block] = std::pair(request.grid, request.block);
    const auto wrong = [&](const char* what) {
        misuse(cudaErrorInvalidConfiguration,
               fmt::format("launch of {}: {}; grid {} {} {}, block {} {} {}", kernel.name, what,
                           grid.x, grid.y, grid.z, block.x, block.y, block.z));
    };
    if (!grid.x || !grid.y || !grid.z) wrong("an empty grid");
    if (!block.x || !block.y || !block.z) wrong("an empty block");
    if (grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) wrong("too large a grid");
    if (block.x > 1024 || block.y > 1024 || block.z > 64) wrong("too large a block");
    const uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (threads > 1024) wrong("more than 1024 threads a block");
    if (threads > kernel.max_threads) wrong("more threads than its __launch_bounds__");
}

void check_shared(const Function& function, const KernelInfo& kernel, size_t dynamic) {
    if (dynamic <= function.max_dynamic_shared) return;
    misuse(
        cudaErrorInvalidValue,
        fmt::format("launch of {}: {} bytes of dynamic shared memory, allowed are {}; more needs "
                    "cudaFuncAttributeMaxDynamicSharedMemorySize",
                    kernel.name, dynamic, function.max_dynamic_shared));
}

// As fields of the timeline.
std::string shape_of(const LaunchRequest& request) {
    if (!Timeline::instance().on()) return "";
    const auto [grid, block] = std::pair(request.grid, request.block);
    return fmt::format(R"(, "grid": [{}, {}, {}], "block": [{}, {}, {}], "shared": {})", grid.x,
                       grid.y, grid.z, block.x, block.y, block.z, request.dynamic_shared);
}

std::vector<std::byte> pack(const KernelInfo& kernel, void** arguments) {
    std::vector<std::byte> params(kernel.param_bytes);
    if (!kernel.params.empty() && !arguments)
        misuse(cudaErrorInvalidValue, fmt::format("launch of {} without arguments", kernel.name));
    for (size_t i = 0; i < kernel.params.size(); ++i) {
        const KernelInfo::Param& param = kernel.params[i];
        if (!arguments[i])
            misuse(cudaErrorInvalidValue,
                   fmt::format("launch of {}: argument {} is missing", kernel.name, i));
        std::memcpy(params.data() + param.offset, arguments[i], param.bytes);
    }
    return params;
}

void run(const Kernel& kernel, Launch launch, const Operation& operation) {
    Checker& checker = Checker::instance();
    count_launch(info(kernel).name, launch.block.count(), launch.dynamic_shared);
    std::optional<Meter> meter;
    if (metrics_enabled()) launch.meter = &meter.emplace(kernel.code.size());
    try {
        if (checker.enabled()) {
            const Checker::Running running(checker, operation);
            launch.observer = &checker;
            execute(kernel, launch);
        } else {
            execute(kernel, launch);
        }
        if (meter) record_launch(kernel, launch, *meter);
    } catch (const std::exception& error) {  // a Fault, or the interpreter's own
        report(error.what());
        set_sticky_error(cudaErrorLaunchFailure);
    }
}

}  // namespace

void launch(const LaunchRequest& request) {
    const Function& function = Modules::instance().function(request.function);
    const KernelInfo& kernel = info(*function.kernel);
    check_shape(kernel, request);
    check_shared(function, kernel, request.dynamic_shared);

    Launch launch;
    launch.grid = {request.grid.x, request.grid.y, request.grid.z};
    launch.block = {request.block.x, request.block.y, request.block.z};
    launch.dynamic_shared = request.dynamic_shared;
    launch.params = pack(kernel, request.arguments);
    launch.reverse = settings().reverse;
    launch.instruction_limit = settings().instruction_limit;
    count(&cudaemu_counts::launches);
    Streams::instance().issue(
        request.stream, Label{.kind = "launch", .name = kernel.name, .shape = shape_of(request)},
        [kernel = function.kernel, launch = std::move(launch)](const Operation& operation) {
            run(*kernel, launch, operation);
        });
}

void set_function_attribute(const void* host, cudaFuncAttribute attribute, int value) {
    Function& function = Modules::instance().function(host);
    const KernelInfo& kernel = info(*function.kernel);
    switch (attribute) {
        case cudaFuncAttributeMaxDynamicSharedMemorySize:
            if (value < 0 || size_t(value) + kernel.static_shared > shared_opt_in())
                misuse(cudaErrorInvalidValue,
                       fmt::format("{}: {} bytes of dynamic beside {} of static shared memory, a "
                                   "block can have {}",
                                   kernel.name, value, kernel.static_shared, shared_opt_in()));
            function.max_dynamic_shared = size_t(value);
            return;
        case cudaFuncAttributePreferredSharedMemoryCarveout:
            if (value < -1 || value > 100) refuse(cudaErrorInvalidValue);
            return;  // a hint about speed
        default:
            refuse(cudaErrorNotSupported);
    }
}

cudaFuncAttributes function_attributes(const void* host) {
    const Function& function = Modules::instance().function(host);
    const KernelInfo& kernel = info(*function.kernel);
    cudaFuncAttributes attributes;
    std::memset(&attributes, 0, sizeof attributes);
    attributes.sharedSizeBytes = kernel.static_shared;
    attributes.localSizeBytes = kernel.local;
    attributes.maxThreadsPerBlock = int(kernel.max_threads);
    attributes.ptxVersion = function.binary->module->compute_capability;
    attributes.binaryVersion = settings().compute_capability;
    attributes.maxDynamicSharedSizeBytes = int(function.max_dynamic_shared);
    attributes.preferredShmemCarveout = -1;
    return attributes;
}

int blocks_per_multiprocessor(const void* host, int threads, size_t dynamic_shared) {
    const Function& function = Modules::instance().function(host);
    const KernelInfo& kernel = info(*function.kernel);
    if (threads < 1) refuse(cudaErrorInvalidValue);
    if (uint32_t(threads) > kernel.max_threads || dynamic_shared > function.max_dynamic_shared)
        return 0;
    const int whole_warps = (threads + 31) / 32 * 32;
    const size_t reserved = size_t(device_attribute(cudaDevAttrReservedSharedMemoryPerBlock, 0));
    const size_t shared = kernel.static_shared + dynamic_shared + reserved;
    const size_t by_shared = shared ? shared_per_multiprocessor() / shared : 32;
    return int(
        std::min({size_t{32}, size_t(threads_per_multiprocessor() / whole_warps), by_shared}));
}

}  // namespace cudaemu
