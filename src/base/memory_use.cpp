// Reads VmRSS and VmHWM; writes 5 to clear_refs, which resets VmHWM (man 5 proc).
#include "base/memory_use.h"

#include <malloc.h>

#include <fstream>
#include <string>

#include "base/error.h"

namespace fomoe {

MemoryUse memory_use() {
    std::ifstream status("/proc/self/status");
    MemoryUse use;
    std::string line;
    while (std::getline(status, line)) {
        // "VmRSS:      1234 kB"
        if (line.starts_with("VmRSS:")) use.resident_bytes = std::stoll(line.substr(6)) * 1024;
        if (line.starts_with("VmHWM:")) use.peak_bytes = std::stoll(line.substr(6)) * 1024;
    }
    if (use.resident_bytes == 0 || use.peak_bytes == 0)
        throw Error(Exit::internal, "/proc/self/status does not say how much memory is in use");
    return use;
}

bool reset_peak_memory() {
    malloc_trim(0);
    std::ofstream clear("/proc/self/clear_refs");
    clear << "5" << std::flush;
    return bool(clear);
}

}  // namespace fomoe
