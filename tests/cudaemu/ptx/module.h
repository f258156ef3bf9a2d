// A parsed PTX module: what the interpreter executes.
#pragma once

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace cudaemu {

struct Kernel;  // an entry, ready to execute; defined in ptx/kernel.h

// A module variable (.global or .const), zero or initialised, living at `address` of the device.
struct Variable {
    uint64_t address = 0;
    size_t bytes = 0;
};

struct Module {
    int compute_capability = 80;  // from .target: sm_80, sm_90a, ...
    std::map<std::string, std::shared_ptr<const Kernel>> kernels;  // by mangled name
    std::map<std::string, Variable> variables;
};

// The text cannot be parsed; says the line. An instruction that is merely unknown is not such an
// error: it fails with its text when a thread reaches it.
struct PtxError : std::runtime_error {
    using runtime_error::runtime_error;
};

// Parses one PTX file. Variables are allocated in the device memory.
std::unique_ptr<Module> parse(std::string_view ptx);

}  // namespace cudaemu
