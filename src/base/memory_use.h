// How much memory this process holds, as the kernel counts it (/proc/self/status).
#pragma once

#include <cstdint>

namespace fomoe {

struct MemoryUse {
    int64_t resident_bytes = 0;  // now
    int64_t peak_bytes = 0;      // most since the start or the last reset
};
// Throws Error(internal) where /proc cannot be read.
MemoryUse memory_use();

// Gives freed memory back, so that what is taken from now on counts whole; the peak starts again
// from what is resident now. False where the kernel does not allow it.
bool reset_peak_memory();

}  // namespace fomoe
