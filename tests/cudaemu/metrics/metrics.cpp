// Keeps the lines of metrics mode, or appends them to a file.
#include "metrics/metrics.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "settings.h"

namespace cudaemu {
namespace {

struct Metrics {
    std::mutex mutex;
    bool enabled = settings().metrics;
    std::string kept;
    std::FILE* file = nullptr;
};

Metrics& metrics() {
    // Never destroyed: destructors of the program may still launch.
    static Metrics* instance = [] {
        auto* made = new Metrics;
        const std::string& path = settings().metrics_file;
        if (!path.empty() && !(made->file = std::fopen(path.c_str(), "a"))) {
            std::fprintf(stderr, "cudaemu: cannot write CUDAEMU_METRICS_FILE=%s\n", path.c_str());
            std::exit(1);
        }
        std::atexit([] {
            Metrics& all = metrics();
            const std::lock_guard lock(all.mutex);
            std::fputs(all.kept.c_str(), stderr);
        });
        return made;
    }();
    return *instance;
}

void keep(const std::string& line) {
    Metrics& all = metrics();
    const std::lock_guard lock(all.mutex);
    if (!all.file) {
        all.kept += line + "\n";
        return;
    }
    std::fprintf(all.file, "%s\n", line.c_str());
    std::fflush(all.file);
}

}  // namespace

bool metrics_enabled() {
    Metrics& all = metrics();
    const std::lock_guard lock(all.mutex);
    return all.enabled;
}

void record_launch(const Kernel& kernel, const Launch& launch, const Meter& meter) {
    keep(launch_line(kernel, launch, meter));
}

void record_transfer(const char* name, uint64_t bytes_read, uint64_t bytes_written) {
    keep(fmt::format(R"({{"transfer":"{}","read":{},"written":{}}})", name, bytes_read,
                     bytes_written));
}

}  // namespace cudaemu

void cudaemu_set_metrics(int on) {
    cudaemu::Metrics& all = cudaemu::metrics();
    const std::lock_guard lock(all.mutex);
    all.enabled = on != 0;
}

const char* cudaemu_take_metrics() {
    static std::string taken;
    cudaemu::Metrics& all = cudaemu::metrics();
    const std::lock_guard lock(all.mutex);
    taken = std::move(all.kept);
    all.kept.clear();
    return taken.c_str();
}
