// Counts calls of the runtime and launches of kernels.
#include "runtime/counters.h"

#include <map>
#include <mutex>

#include "check/findings.h"
#include "runtime/counting.h"

namespace cudaemu {
namespace {

struct Counters {
    std::mutex mutex;
    cudaemu_counts calls{};
    std::map<std::string, uint64_t> launches;  // that have run, by kernel
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

void count_launch(const std::string& kernel) {
    std::lock_guard lock(counters().mutex);
    ++counters().launches[kernel];
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
    for (const auto& [kernel, count] : counters.launches)
        lines += kernel + " " + std::to_string(count) + "\n";
    return lines.c_str();
}
