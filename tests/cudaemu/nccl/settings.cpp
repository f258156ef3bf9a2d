// Reads the environment.
#include "nccl/settings.h"

#include <nccl.h>

#include <cstdio>
#include <cstdlib>

namespace cudaemu::nccl {
namespace {

double number(const char* name, double otherwise) {
    const char* text = std::getenv(name);
    if (!text || !*text) return otherwise;
    char* end = nullptr;
    const double value = std::strtod(text, &end);
    if (*end == 0 && value > 0) return value;
    std::fprintf(stderr, "cudaemu: %s=%s makes no sense\n", name, text);
    std::exit(1);
}

}  // namespace

int version() {
    static const int read_once = int(number("CUDAEMU_NCCL_VERSION", NCCL_VERSION_CODE));
    return read_once;
}

double limit() {
    static const double read_once = number("CUDAEMU_NCCL_LIMIT", 60);
    return read_once;
}

}  // namespace cudaemu::nccl
