// How functions of the runtime fail: the last error of a thread, and the error that sticks.
#pragma once

#include <driver_types.h>

#include <new>
#include <string>

namespace cudaemu {

// Thrown inside the runtime; the function of the API returns its code.
struct Refusal {
    cudaError_t code = cudaErrorUnknown;
};

[[noreturn]] void refuse(cudaError_t code);
// Refuses what a correct program does not ask for, with a finding.
[[noreturn]] void misuse(cudaError_t code, const std::string& finding);

// The error after which a process cannot use its device any more: a launch has failed.
cudaError_t sticky_error();
void set_sticky_error(cudaError_t code);  // cudaSuccess: the device has been reset

// What keeps any function from working: no driver, no device. cudaSuccess: nothing.
cudaError_t unusable();

// Keeps the error for cudaGetLastError of this thread, and returns it.
cudaError_t remember(cudaError_t code);
cudaError_t last_error(bool forget);

// The body of a function of the API: `body` returns nothing and throws Refusal.
template <typename Body>
cudaError_t answer(Body&& body) {
    if (const cudaError_t code = unusable(); code != cudaSuccess) return remember(code);
    if (sticky_error() != cudaSuccess) return sticky_error();
    try {
        body();
    } catch (const Refusal& refusal) {
        return remember(refusal.code);
    } catch (const std::bad_alloc&) {
        return remember(cudaErrorMemoryAllocation);
    }
    return sticky_error();
}

}  // namespace cudaemu
