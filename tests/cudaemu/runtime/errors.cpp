// The state behind cudaGetLastError.
#include "runtime/errors.h"

#include <atomic>

#include "check/findings.h"
#include "settings.h"

namespace cudaemu {
namespace {

std::atomic<cudaError_t>& sticky() {
    static std::atomic<cudaError_t> code{cudaSuccess};
    return code;
}

cudaError_t& last() {
    thread_local cudaError_t code = cudaSuccess;
    return code;
}

}  // namespace

void refuse(cudaError_t code) { throw Refusal{code}; }

void misuse(cudaError_t code, const std::string& finding) {
    report(finding);
    refuse(code);
}

cudaError_t sticky_error() { return sticky(); }
void set_sticky_error(cudaError_t code) { sticky() = code; }

cudaError_t unusable() {
    if (settings().driver != Driver::present) return cudaErrorInsufficientDriver;
    return settings().devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t remember(cudaError_t code) {
    if (code != cudaSuccess) last() = code;
    return code;
}

cudaError_t last_error(bool forget) {
    if (sticky_error() != cudaSuccess) return sticky_error();
    const cudaError_t code = last();
    if (forget) last() = cudaSuccess;
    return code;
}

}  // namespace cudaemu
