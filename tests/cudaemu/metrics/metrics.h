// Metrics mode: what each launch asked of memory and of the arithmetic units, as lines of JSON.
#pragma once

#include <stdint.h>

#include <string>

namespace cudaemu {

class Meter;
struct Kernel;
struct Launch;

bool metrics_enabled();
// A launch has run. Thread-safe, as are the others.
void record_launch(const Kernel& kernel, const Launch& launch, const Meter& meter);
// A copy or a fill of device memory, which no kernel does.
void record_transfer(const char* name, uint64_t bytes_read, uint64_t bytes_written);

// The line of a launch, without its end.
std::string launch_line(const Kernel& kernel, const Launch& launch, const Meter& meter);

}  // namespace cudaemu

// For tests, found with dlsym(RTLD_DEFAULT, ...). Turns metrics mode on or off for launches that
// run from now on. CUDAEMU_METRICS=1 turns it on at the start.
extern "C" void cudaemu_set_metrics(int on);
// The lines since the last call, owned by the library until the next call. Empty when
// CUDAEMU_METRICS_FILE is set: then they are appended to that file.
extern "C" const char* cudaemu_take_metrics();
