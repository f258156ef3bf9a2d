#include <algorithm>
#include <cstring>

#include "ops/cpu/cpu_backend.h"

namespace fomoe {

// Integers only: one thread is enough.
void CpuBackend::compute(const DispatchPlan& op) {
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

void CpuBackend::compute(const Permute& op) {
    const int64_t M = op.index.shape[0], D = op.x.shape[1];
    const int32_t* index = op.index.as<int32_t>();
    const float* x = op.x.as<float>();
    float* y = op.y.as<float>();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t m = 0; m < M; ++m) std::memcpy(y + m * D, x + index[m] * D, D * sizeof(float));
}

void CpuBackend::compute(const Combine& op) {
    const int64_t N = op.y.shape[0], D = op.y.shape[1], Q = op.position.shape[1];
    const int32_t* position = op.position.as<int32_t>();
    const float* x = op.x.as<float>();
    float* y = op.y.as<float>();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t n = 0; n < N; ++n) {
        float* sum = y + n * D;
        bool first = !op.accumulate;
        for (int64_t q = 0; q < Q; ++q) {
            const int64_t m = position[n * Q + q];
            if (m < 0) continue;
            const float* row = x + m * D;
            if (first) {
                std::memcpy(sum, row, D * sizeof(float));
            } else {
#pragma omp simd
                for (int64_t d = 0; d < D; ++d) sum[d] += row[d];
            }
            first = false;
        }
        if (first) std::memset(sum, 0, D * sizeof(float));
    }
}

}  // namespace fomoe
