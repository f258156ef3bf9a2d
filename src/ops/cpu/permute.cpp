#include <algorithm>
#include <cstring>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/lanes.h"

namespace fomoe {

// Integers only: one thread is enough.
void CpuBackend::execute(const DispatchPlan& op, Queue) {
    const int64_t N = op.slot.shape[0], K = op.slot.shape[1], Q = op.first_slot.shape[0] - 1;
    const int64_t M = op.token.shape[0];
    const int32_t* slot = op.slot.as<int32_t>();
    const int32_t* first = op.first_slot.as<int32_t>();
    int32_t* offset = op.offset.as<int32_t>();
    int32_t* token = op.token.as<int32_t>();
    int32_t* row_slot = op.row_slot.as<int32_t>();
    int32_t* position = op.position.as<int32_t>();

    // position holds -1, and 0 where a row will be, until the rows are numbered.
    std::fill(position, position + N * Q, -1);
    std::fill(offset, offset + 2 * Q + 1, 0);
    for (int64_t n = 0; n < N; ++n) {
        for (int64_t k = 0; k < K; ++k) {
            const int32_t s = slot[n * K + k];
            if (s < first[0] || s >= first[Q]) continue;
            const int64_t q = std::upper_bound(first, first + Q + 1, s) - first - 1;
            offset[q + 1] += position[n * Q + q] < 0;
            ++offset[Q + q + 1];
            position[n * Q + q] = 0;
        }
    }
    for (int64_t q = 0; q < 2 * Q; ++q) offset[q + 1] += offset[q];
    std::fill(token, token + M, -1);
    std::fill(row_slot, row_slot + M * K, -1);
    for (int64_t q = 0; q < Q; ++q) {
        int32_t row = offset[q];
        for (int64_t n = 0; n < N; ++n) {
            if (position[n * Q + q] < 0) continue;
            position[n * Q + q] = row;
            token[row] = static_cast<int32_t>(n);
            for (int64_t k = 0; k < K; ++k) {
                const int32_t s = slot[n * K + k];
                if (s >= first[q] && s < first[q + 1]) row_slot[row * K + k] = s - first[q];
            }
            ++row;
        }
    }
}

void CpuBackend::execute(const Permute& op, Queue) {
    const int64_t M = op.index.shape[0], row = op.x.shape[1] * size_of(op.x.dtype);
    const int32_t* index = op.index.as<int32_t>();
    const char* x = static_cast<const char*>(op.x.data);
    char* y = static_cast<char*>(op.y.data);
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t m = 0; m < M; ++m) std::memcpy(y + m * row, x + index[m] * row, row);
}

void CpuBackend::execute(const Combine& op, Queue) {
    const int64_t N = op.y.shape[0], D = op.y.shape[1], Q = op.position.shape[1];
    with_element(op.y.dtype, [&]<class T>(const T*) {
        const T* x = op.x.as<T>();
        T* y = op.y.as<T>();
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (int64_t n = 0; n < N; ++n) {
            const int32_t* position = op.position.as<int32_t>() + n * Q;
            T* to = y + n * D;
            for_lanes(D, [&](int64_t d, auto vec) {
                Vec sum{};
                if (op.accumulate) sum = vec.load(to + d);
                for (int64_t q = 0; q < Q; ++q)
                    if (position[q] >= 0) sum += vec.load(x + position[q] * D + d);
                vec.store(to + d, sum);
            });
        }
    });
}

}  // namespace fomoe
