// Embedding: copies of rows, and the sums of their gradients.
#include "ops/embedding.h"

#include <algorithm>
#include <cstring>

#include "ops/cpu/cpu_backend.h"

namespace fomoe {

void CpuBackend::compute(const Embedding& op) {
    const int64_t N = op.y.shape[0], row = op.y.shape[1] * size_of(op.y.dtype);
    const int32_t* token = op.token.as<int32_t>();
    const char* weight = static_cast<const char*>(op.weight.data);
    char* y = static_cast<char*>(op.y.data);
#pragma omp parallel for num_threads(threads_)
    for (int64_t n = 0; n < N; ++n) std::memcpy(y + n * row, weight + token[n] * row, row);
}

// A thread owns a range of columns, so that the order of the sums is that of the tokens.
void CpuBackend::compute(const EmbeddingBackward& op) {
    const int64_t N = op.dy.shape[0], D = op.dy.shape[1];
    const int32_t* token = op.token.as<int32_t>();
    const float* dy = op.dy.as<float>();
    float* dweight = op.dweight.as<float>();
    const int64_t width = (D + 16 * threads_ - 1) / (16 * threads_) * 16;
#pragma omp parallel for num_threads(threads_)
    for (int64_t begin = 0; begin < D; begin += width) {
        const int64_t end = std::min(begin + width, D);
        for (int64_t n = 0; n < N; ++n) {
            const float* from = dy + n * D;
            float* to = dweight + token[n] * D;
#pragma omp simd
            for (int64_t d = begin; d < end; ++d) to[d] += from[d];
        }
    }
}

}  // namespace fomoe
