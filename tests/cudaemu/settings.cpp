// Reads the environment.
#include "settings.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace cudaemu {
namespace {

[[noreturn]] void refuse(const char* name, const std::string& value) {
    std::fprintf(stderr, "cudaemu: %s=%s makes no sense\n", name, value.c_str());
    std::exit(1);
}

uint64_t number(const char* name, uint64_t otherwise) {
    const char* text = std::getenv(name);
    if (!text || !*text) return otherwise;
    char* end = nullptr;
    const uint64_t value = std::strtoull(text, &end, 10);
    if (*end || *text == '-') refuse(name, text);
    return value;
}

Driver driver() {
    const char* text = std::getenv("CUDAEMU_DRIVER");
    const std::string value = text ? text : "";
    if (value.empty()) return Driver::present;
    if (value == "none") return Driver::missing;
    if (value == "old") return Driver::old;
    refuse("CUDAEMU_DRIVER", value);
}

Settings read() {
    Settings settings;
    settings.compute_capability = int(number("CUDAEMU_CC", settings.compute_capability));
    settings.devices = int(number("CUDAEMU_DEVICES", settings.devices));
    settings.driver = driver();
    settings.memory_bytes = number("CUDAEMU_MEMORY", settings.memory_bytes >> 20) << 20;
    settings.checked = number("CUDAEMU_CHECK", 0) != 0;
    settings.metrics = number("CUDAEMU_METRICS", 0) != 0;
    if (const char* path = std::getenv("CUDAEMU_METRICS_FILE")) settings.metrics_file = path;
    settings.reverse = number("CUDAEMU_REVERSE", 0) != 0;
    settings.eager = number("CUDAEMU_EAGER", 0) != 0;
    settings.instruction_limit = number("CUDAEMU_LIMIT", 0);
    if (const char* file = std::getenv("CUDAEMU_TIMELINE")) settings.timeline = file;
    return settings;
}

}  // namespace

const Settings& settings() {
    static const Settings read_once = read();
    return read_once;
}

}  // namespace cudaemu
