#include "apps/build_info.h"

#include <fmt/format.h>

namespace fomoe {
namespace {

// Of this machine, those that the CPU ops gain from.
std::string cpu_features() {
    std::string text;
#if defined(__x86_64__)
    const std::pair<const char*, bool> features[] = {
        {"avx2", __builtin_cpu_supports("avx2")},
        {"fma", __builtin_cpu_supports("fma")},
        {"avx512f", __builtin_cpu_supports("avx512f")},
        {"avx512bw", __builtin_cpu_supports("avx512bw")},
        {"avx512vnni", __builtin_cpu_supports("avx512vnni")},
        {"avx512bf16", __builtin_cpu_supports("avx512bf16")},
        {"amx-bf16", __builtin_cpu_supports("amx-bf16")},
    };
    for (const auto& [name, there] : features)
        if (there) text += (text.empty() ? "" : " ") + std::string(name);
#endif
    return text.empty() ? "none that is looked for" : text;
}

std::string build_info() {
    return fmt::format(
        "fomoe {}, commit {}\n"
        "compiler: {} {}, {}\n"
        "CPU features here: {}\n"
        "libraries: {}\n"
        "CUDA plugin: {}",
        FOMOE_VERSION, FOMOE_COMMIT, FOMOE_COMPILER, __VERSION__, FOMOE_FLAGS, cpu_features(),
        FOMOE_LIBRARIES, FOMOE_CUDA_BUILD);
}

}  // namespace

void add_build_options(CLI::App& app) {
    app.set_version_flag("--version", fmt::format("fomoe {}", FOMOE_VERSION), "Print the version");
    app.add_flag_callback(
           "--build-info", [] { throw CLI::CallForVersion(build_info(), 0); },
           "Print commit, compiler, flags, CPU features, libraries and GPU code")
        ->trigger_on_parse();
}

}  // namespace fomoe
