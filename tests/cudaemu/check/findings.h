// What went wrong so far: faults, findings of checked mode, misuse of the runtime.
#pragma once

#include <string>
#include <vector>

namespace cudaemu {

// Thread-safe. The same finding at the same source line is kept once.
void report(std::string finding);

}  // namespace cudaemu

// For tests, found with dlsym(RTLD_DEFAULT, ...), so that a test binary runs on real libraries too:
// the findings since the last call, one a line, owned by the library until the next call.
extern "C" const char* cudaemu_take_findings();
// Turns checked mode on or off for launches from now on. CUDAEMU_CHECK=1 turns it on at the start.
extern "C" void cudaemu_set_checked(int on);
// The launches that have run, by kernel: "name count threads dynamic-shared" a line. The last two,
// threads a block and bytes, are those of the launch with the most dynamic shared memory.
extern "C" const char* cudaemu_launch_counts();
