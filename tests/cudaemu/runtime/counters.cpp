// Counts calls of the runtime and launches of kernels.
#include "runtime/counters.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "check/findings.h"
#include "runtime/counting.h"

namespace cudaemu {
namespace {

struct Launches {
    uint64_t count = 0;
    std::pair<size_t, uint64_t> largest;  // dynamic shared memory, threads
};

struct Counters {
    std::mutex mutex;
    cudaemu_counts calls{};
    std::map<std::string, Launches> launches;  // by kernel
};

Counters& counters() {
    static Counters* instance = new Counters;  // used by destructors of the program
    return *instance;
}

}  // namespace

void count(uint64_t cudaemu_counts::*what) {
    std::lock_guard lock(counters().mutex);
    ++(counters().calls.*what);
}

void count_launch(const std::string& kernel, uint64_t threads, size_t dynamic_shared) {
    std::lock_guard lock(counters().mutex);
    Launches& launches = counters().launches[kernel];
    ++launches.count;
    launches.largest = std::max(launches.largest, {dynamic_shared, threads});
}

}  // namespace cudaemu

cudaemu_counts cudaemu_take_counts() {
    cudaemu::Counters& counters = cudaemu::counters();
    std::lock_guard lock(counters.mutex);
    const cudaemu_counts taken = counters.calls;
    counters.calls = {};
    return taken;
}

const char* cudaemu_launch_counts() {
    static std::string lines;
    cudaemu::Counters& counters = cudaemu::counters();
    std::lock_guard lock(counters.mutex);
    lines.clear();
    for (const auto& [kernel, launches] : counters.launches)
        lines += fmt::format("{} {} {} {}\n", kernel, launches.count, launches.largest.second,
                             launches.largest.first);
    return lines.c_str();
}
