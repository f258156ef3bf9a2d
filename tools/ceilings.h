// What a backend reaches at best, measured: a large matmul, and a copy of much memory.
#pragma once

#include <algorithm>
#include <vector>

#include "base/timer.h"
#include "ops/matmul_ceiling.h"

namespace fomoe {

// Seconds of one call: the fastest of the batches that fit into `limit` seconds, three at least,
// after one call to warm up. A batch is as many calls as take a millisecond, so that the time of
// launching them does not count.
template <class Call>
double seconds_of(Backend& backend, double limit, Call call) {
    call();
    backend.synchronize();
    const auto time = [&](int calls) {
        const Timer timer;
        for (int i = 0; i < calls; ++i) call();
        backend.synchronize();
        return timer.seconds();
    };
    const double first = std::max(1e-7, time(1));
    const int calls = std::clamp(static_cast<int>(1e-3 / first), 1, 1000);
    double fastest = first;
    const Timer total;
    for (int batches = 0; batches < 3 || total.seconds() < limit; ++batches)
        fastest = std::min(fastest, time(calls) / calls);
    return fastest;
}

// Operands of `dtype`, f32 or bf16, and of size (size, size) each.
inline Ceilings measured_ceilings(Backend& backend, DType dtype, int64_t size) {
    const int64_t bytes = size * size * size_of(dtype);
    void* memory[3];
    for (void*& piece : memory) piece = backend.allocate(bytes, "a ceiling");
    std::vector<char> host(bytes);
    for (int64_t i = 0; i < size * size; ++i) {
        const float x = static_cast<float>(i * 2654435761u % 2048) / 1024.0f - 1.0f;
        if (dtype == DType::f32)
            reinterpret_cast<float*>(host.data())[i] = x;
        else
            reinterpret_cast<bf16*>(host.data())[i] = to_bf16(x);
    }
    const auto tensor = [&](int i) { return Tensor{memory[i], dtype, Shape(size, size)}; };
    for (int i : {0, 1}) backend.copy_from_host(tensor(i), host.data());

    Ceilings found;
    found.gflops = 2e-9 * size * size * size / seconds_of(backend, 1.0, [&] {
                       backend.run(Linear{.y = tensor(2), .x = tensor(0), .weight = tensor(1)});
                   });
    found.gigabytes =
        2e-9 * bytes / seconds_of(backend, 0.5, [&] { backend.copy(tensor(2), tensor(0)); });
    for (void* piece : memory) backend.release(piece);
    return found;
}

}  // namespace fomoe
