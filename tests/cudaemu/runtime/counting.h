// Where the runtime counts; runtime/counters.h is what tests see.
#pragma once

#include <string>

#include "runtime/counters.h"

namespace cudaemu {

void count(uint64_t cudaemu_counts::*what);
// A launch has run, with this many threads a block and bytes of dynamic shared memory.
void count_launch(const std::string& kernel, uint64_t threads, size_t dynamic_shared);

}  // namespace cudaemu
