#include "ops/matmul_ceiling.h"

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "base/timer.h"

namespace fomoe {
namespace {

constexpr int64_t kLargest = 4096;
constexpr double kEnough = 2e-3;  // seconds of one call: larger ones are no faster
constexpr int kCalls = 8;

// Of one of several calls with n rows and columns.
double linear_seconds(Backend& backend, DType dtype, int64_t n) {
    Arena memory(backend, 3 * n * n * size_of(dtype) + 3 * Arena::kAlign, "matmul ceiling");
    const auto take = [&] { return memory.take(dtype, Shape(n, n)); };
    const Linear op{.y = take(), .x = take(), .weight = take()};
    std::vector<float> values(n * n);
    for (int64_t i = 0; i < n * n; ++i)
        values[i] = static_cast<float>(random_uniform(1, static_cast<uint64_t>(i)));
    std::vector<bf16> narrow;
    if (dtype == DType::bf16) std::ranges::transform(values, std::back_inserter(narrow), to_bf16);
    for (const ConstTensor& operand : {op.x, op.weight})
        backend.copy_from_host({const_cast<void*>(operand.data), dtype, operand.shape},
                               narrow.empty() ? static_cast<void*>(values.data()) : narrow.data());
    backend.run(op);
    backend.synchronize();
    const Timer timer;
    for (int i = 0; i < kCalls; ++i) backend.run(op);
    backend.synchronize();
    return timer.seconds() / kCalls;
}

}  // namespace

double matmul_ceiling(Backend& backend, DType dtype, int threads) {
    if (backend.host_memory()) return cpu_matmul_ceiling(dtype, threads);
    double best = 0, seconds = 0;
    for (int64_t n = 128; n <= kLargest && seconds < kEnough; n *= 2) {
        seconds = linear_seconds(backend, dtype, n);
        best = std::max(best, 2e-9 * static_cast<double>(n * n * n) / seconds);
    }
    return best;
}

Ceilings measure_ceilings(Backend& backend, DType dtype, int threads) {
    constexpr int64_t kBytes = int64_t{64} << 20;
    Arena memory(backend, 2 * kBytes + 2 * Arena::kAlign, "copy ceiling");
    const auto take = [&] { return memory.take(DType::f32, Shape(kBytes / 4)); };
    const Tensor from = take(), to = take();
    backend.zero(from, Queue::compute);
    double best = 1e30;
    for (int i = 0; i <= kCalls; ++i) {
        backend.synchronize();
        const Timer timer;
        backend.copy(to, from, Queue::compute);
        backend.synchronize();
        if (i > 0) best = std::min(best, timer.seconds());  // the first touches the memory
    }
    return {matmul_ceiling(backend, dtype, threads), 2e-9 * kBytes / best};
}

}  // namespace fomoe
