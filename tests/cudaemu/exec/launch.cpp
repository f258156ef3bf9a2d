// A kernel over its grid.
#include <exception>
#include <mutex>
#include <optional>

#include "exec/block.h"
#include "exec/execute.h"
#include "metrics/meter.h"

namespace cudaemu {
namespace {

void check(const Kernel& kernel, const Launch& launch) {
    const auto refuse = [&](const std::string& why) {
        throw Fault("invalid launch of " + kernel.info.name + ": " + why);
    };
    if (!launch.grid.count() || launch.grid.count() > UINT32_MAX) refuse("size of the grid");
    if (!launch.block.count() || launch.block.count() > kernel.info.max_threads)
        refuse(std::to_string(launch.block.count()) + " threads a block, at most " +
               std::to_string(kernel.info.max_threads));
    if (launch.params.size() < kernel.info.param_bytes) refuse("parameters are missing");
}

}  // namespace

void execute(const Kernel& kernel, const Launch& launch) {
    check(kernel, launch);
    if (launch.observer) launch.observer->launch_begins();
    const auto blocks = static_cast<int64_t>(launch.grid.count());
    std::atomic<uint64_t> executed{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;
    std::mutex mutex;  // of `error` and of the launch's meter
    const bool serial = launch.observer || blocks == 1;
#pragma omp parallel if (!serial)
    {
        Block block;
        block.kernel = &kernel;
        block.launch = &launch;
        block.total = &executed;
        std::optional<Meter> meter;
        if (launch.meter) block.meter = &meter.emplace(kernel.code.size());
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < blocks; ++i) {
            if (failed) continue;
            try {
                begin_block(block, static_cast<uint32_t>(launch.reverse ? blocks - 1 - i : i));
                run_block(block);
            } catch (...) {
                const std::lock_guard lock(mutex);
                if (!failed.exchange(true)) error = std::current_exception();
            }
        }
        if (meter) {
            const std::lock_guard lock(mutex);
            launch.meter->add(*meter);
        }
    }
    if (error) std::rethrow_exception(error);
}

const KernelInfo& info(const Kernel& kernel) { return kernel.info; }

}  // namespace cudaemu
