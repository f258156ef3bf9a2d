#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/matmul.h"

namespace fomoe {

void CpuBackend::execute(const Linear& op, Queue) {
    const int64_t N = op.x.shape[0], O = op.weight.shape[0], I = op.weight.shape[1];
    const Matmul y{.c = op.y,
                   .stride = O,
                   .a = {op.x, 0, I},
                   .b = {op.weight, 0, I, true},
                   .m = N,
                   .n = O,
                   .k = I,
                   .accumulate = op.accumulate};
#pragma omp parallel for num_threads(threads_) schedule(static, 1)
    for (int t = 0; t < threads_; ++t) multiply(y.share(t, threads_));
}

void CpuBackend::execute(const LinearBackward& op, Queue) {
    const int64_t N = op.x.shape[0], O = op.weight.shape[0], I = op.weight.shape[1];
    const Matmul dweight{.c = op.dweight,
                         .stride = I,
                         .a = {op.dy, 0, O, true},
                         .b = {op.x, 0, I},
                         .m = O,
                         .n = I,
                         .k = N,
                         .accumulate = true};
    const Matmul dx{.c = op.dx,
                    .stride = I,
                    .a = {op.dy, 0, O},
                    .b = {op.weight, 0, I},
                    .m = op.dx ? N : 0,
                    .n = I,
                    .k = O,
                    .accumulate = op.accumulate_dx};
#pragma omp parallel for num_threads(threads_) schedule(static, 1)
    for (int t = 0; t < threads_; ++t) {
        if (op.dx) multiply(dx.share(t, threads_));
        multiply(dweight.share(t, threads_));
    }
}

}  // namespace fomoe
