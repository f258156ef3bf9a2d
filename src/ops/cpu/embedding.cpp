// Embedding: copies of rows, and the sums of their gradients.
#include "ops/embedding.h"

#include <algorithm>
#include <cstring>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/lanes.h"

namespace fomoe {

void CpuBackend::execute(const Embedding& op, Queue) {
    const int64_t N = op.y.shape[0], row = op.y.shape[1] * size_of(op.y.dtype);
    const int32_t* token = op.token.as<int32_t>();
    const char* weight = static_cast<const char*>(op.weight.data);
    char* y = static_cast<char*>(op.y.data);
#pragma omp parallel for num_threads(threads_)
    for (int64_t n = 0; n < N; ++n) std::memcpy(y + n * row, weight + token[n] * row, row);
}

// A thread owns a range of columns, so that the order of the sums is that of the tokens.
void CpuBackend::execute(const EmbeddingBackward& op, Queue) {
    const int64_t N = op.dy.shape[0], D = op.dy.shape[1];
    const int32_t* token = op.token.as<int32_t>();
    float* dweight = op.dweight.as<float>();
    const int64_t width = (D + 16 * threads_ - 1) / (16 * threads_) * 16;
    with_element(op.dy.dtype, [&]<class T>(const T*) {
        const T* dy = op.dy.as<T>();
#pragma omp parallel for num_threads(threads_)
        for (int64_t begin = 0; begin < D; begin += width) {
            const int64_t columns = std::min(width, D - begin);
            for (int64_t n = 0; n < N; ++n) {
                const T* from = dy + n * D + begin;
                float* to = dweight + token[n] * D + begin;
                for_lanes(columns, [=](int64_t d, auto vec) {
                    vec.store(to + d, vec.load(to + d) + vec.load(from + d));
                });
            }
        }
    });
}

}  // namespace fomoe
