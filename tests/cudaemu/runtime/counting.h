// Where the runtime counts; runtime/counters.h is what tests see.
#pragma once

#include <string>

#include "runtime/counters.h"

namespace cudaemu {

void count(uint64_t cudaemu_counts::*what);
// A launch has run.
void count_launch(const std::string& kernel);

}  // namespace cudaemu
