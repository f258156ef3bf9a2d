// Runs a kernel over its grid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "exec/observer.h"
#include "ptx/module.h"

namespace cudaemu {

class Meter;

struct Dim3 {
    uint32_t x = 1, y = 1, z = 1;
    uint64_t count() const { return uint64_t(x) * y * z; }
};

struct Launch {
    Dim3 grid, block;
    size_t dynamic_shared = 0;       // bytes
    std::vector<std::byte> params;   // laid out as the kernel's .param space
    Meter* meter = nullptr;          // metrics mode: counts all blocks
    Observer* observer = nullptr;    // checked mode: blocks run one after another on one thread
    bool reverse = false;            // blocks and warps in reverse order
    uint64_t instruction_limit = 0;  // of warp instructions; 0: none. Beyond it: a Fault
};

// A thread did what no GPU would let it do: the launch fails. Says kernel, block, thread, source
// line and instruction.
struct Fault : std::runtime_error {
    using runtime_error::runtime_error;
};

// Executes all blocks, over the OpenMP threads of this process unless there is an observer.
void execute(const Kernel& kernel, const Launch& launch);

// For the runtime: offset and size of each parameter, and what a launch may ask for.
struct KernelInfo {
    std::string name;
    struct Param {
        size_t offset = 0, bytes = 0;
    };
    std::vector<Param> params;
    size_t param_bytes = 0;
    size_t static_shared = 0;  // bytes
    size_t local = 0;          // bytes a thread
    uint32_t max_threads = 1024;
};
const KernelInfo& info(const Kernel& kernel);

// "kernel block (x,y,z) thread (x,y,z) file.cu:12 `ld.global.f32 ...`"
struct Site;
std::string describe(const Site& site);

}  // namespace cudaemu
