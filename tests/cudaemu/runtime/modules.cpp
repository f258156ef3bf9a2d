// Loads PTX lazily, as the real runtime loads modules.
#include "runtime/modules.h"

#include <fmt/format.h>

#include <algorithm>

#include "check/checker.h"
#include "runtime/device.h"
#include "runtime/errors.h"
#include "runtime/fatbin.h"
#include "settings.h"

namespace cudaemu {

Modules& Modules::instance() {
    static Modules* modules = new Modules;  // never destroyed: plugins unregister at exit
    return *modules;
}

FatBinary* Modules::add(const void* wrapper) {
    std::lock_guard lock(mutex_);
    auto binary = std::make_unique<FatBinary>();
    binary->wrapper = wrapper;
    FatBinary* handle = binary.get();
    binaries_[handle] = std::move(binary);
    return handle;
}

void Modules::remove(FatBinary* binary) {
    std::lock_guard lock(mutex_);
    std::erase_if(functions_, [&](const auto& item) { return item.second->binary == binary; });
    std::erase_if(variables_, [&](const auto& item) { return item.second.binary == binary; });
    binaries_.erase(binary);
}

void Modules::add_function(FatBinary* binary, const void* host, std::string name) {
    std::lock_guard lock(mutex_);
    auto function = std::make_unique<Function>();
    function->binary = binary;
    function->name = std::move(name);
    functions_[host] = std::move(function);
}

void Modules::add_variable(FatBinary* binary, const void* host, std::string name) {
    std::lock_guard lock(mutex_);
    variables_[host] = {binary, std::move(name)};
}

Function& Modules::find(const void* host) {
    if (const auto found = functions_.find(host); found != functions_.end()) return *found->second;
    for (const auto& [address, function] : functions_)
        if (function.get() == host) return *function;
    misuse(cudaErrorInvalidDeviceFunction, "launch of a function that is not a registered kernel");
}

void Modules::load(FatBinary& binary) {
    if (binary.module) return;
    const PtxChoice choice = choose_ptx(binary.wrapper, settings().compute_capability);
    if (choice.ptx.empty())
        misuse(cudaErrorNoKernelImageForDevice, "a fat binary cannot be used: " + choice.problem);
    try {
        binary.module = parse(choice.ptx);
    } catch (const PtxError& error) {
        misuse(cudaErrorInvalidPtx, fmt::format("PTX cannot be parsed: {}", error.what()));
    }
    Checker& checker = Checker::instance();
    for (const auto& [name, variable] : binary.module->variables) {
        checker.allocated(variable.address, variable.address + variable.bytes);
        checker.initialised(variable.address, variable.bytes);
    }
}

Function& Modules::function(const void* host) {
    std::lock_guard lock(mutex_);
    Function& function = find(host);
    if (function.kernel) return function;
    load(*function.binary);
    const auto& kernels = function.binary->module->kernels;
    const auto found = kernels.find(function.name);
    if (found == kernels.end())
        misuse(cudaErrorInvalidDeviceFunction,
               fmt::format("kernel {} is not in the PTX of its fat binary", function.name));
    function.kernel = found->second;
    const size_t fixed = info(*function.kernel).static_shared;
    function.max_dynamic_shared = kSharedWithoutOptIn - std::min(fixed, kSharedWithoutOptIn);
    return function;
}

cudaKernel_t Modules::handle_of(const void* host) {
    std::lock_guard lock(mutex_);
    return reinterpret_cast<cudaKernel_t>(&find(host));
}

Variable Modules::variable(const void* host) {
    std::lock_guard lock(mutex_);
    const auto found = variables_.find(host);
    if (found == variables_.end())
        misuse(cudaErrorInvalidSymbol, "use of a variable that is not registered");
    load(*found->second.binary);
    const auto& variables = found->second.binary->module->variables;
    const auto variable = variables.find(found->second.name);
    if (variable == variables.end())
        misuse(cudaErrorInvalidSymbol,
               fmt::format("variable {} is not in the PTX of its fat binary", found->second.name));
    return variable->second;
}

}  // namespace cudaemu
