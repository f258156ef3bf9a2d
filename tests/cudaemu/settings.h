// What the environment says about the pretended device and how kernels run on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cudaemu {

enum class Driver { present, missing, old };

struct Settings {
    int compute_capability = 80;             // CUDAEMU_CC: 80, 90, ...
    int devices = 1;                         // CUDAEMU_DEVICES
    Driver driver = Driver::present;         // CUDAEMU_DRIVER: none, old
    size_t memory_bytes = size_t{16} << 30;  // CUDAEMU_MEMORY, in MiB
    bool checked = false;                    // CUDAEMU_CHECK
    bool metrics = false;                    // CUDAEMU_METRICS
    std::string metrics_file;                // CUDAEMU_METRICS_FILE; empty: none
    bool reverse = false;                    // CUDAEMU_REVERSE
    bool eager = false;                      // CUDAEMU_EAGER
    uint64_t instruction_limit = 0;          // CUDAEMU_LIMIT; 0: none
    std::string timeline;                    // CUDAEMU_TIMELINE: a file, or empty
};

// Read once. A value that makes no sense ends the process with a message.
const Settings& settings();

}  // namespace cudaemu
