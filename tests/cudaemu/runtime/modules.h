// Kernels and variables that the program has registered, by the addresses that host code knows.
#pragma once

#include <driver_types.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "exec/execute.h"
#include "ptx/module.h"

namespace cudaemu {

// A fat binary; its PTX is parsed when something of it is used first.
struct FatBinary {
    const void* wrapper = nullptr;
    std::unique_ptr<Module> module;
};

struct Function {
    FatBinary* binary = nullptr;
    std::string name;                      // mangled
    std::shared_ptr<const Kernel> kernel;  // null until it is used first
    size_t max_dynamic_shared = 0;         // bytes; what a launch may ask for
};

// Thread-safe. What does not exist is refused, with a finding.
class Modules {
public:
    static Modules& instance();

    FatBinary* add(const void* wrapper);
    void remove(FatBinary* binary);
    void add_function(FatBinary* binary, const void* host, std::string name);
    void add_variable(FatBinary* binary, const void* host, std::string name);

    // Of a host function or of the handle that handle_of returned; ready to execute.
    Function& function(const void* host);
    cudaKernel_t handle_of(const void* host);
    Variable variable(const void* host);

private:
    struct Symbol {
        FatBinary* binary = nullptr;
        std::string name;
    };
    Function& find(const void* host);
    void load(FatBinary& binary);

    std::mutex mutex_;
    std::map<FatBinary*, std::unique_ptr<FatBinary>> binaries_;
    std::map<const void*, std::unique_ptr<Function>> functions_;  // by host function
    std::map<const void*, Symbol> variables_;                     // by host variable
};

}  // namespace cudaemu
