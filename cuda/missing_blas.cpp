// Ops that are not there yet.
#include "cuda/cuda_backend.h"

namespace fomoe {
void CudaBackend::execute(const Linear&, Queue) { FOMOE_CHECK(false, Linear::name); }
void CudaBackend::execute(const LinearBackward&, Queue) {
    FOMOE_CHECK(false, LinearBackward::name);
}
void CudaBackend::execute(const LinearCrossEntropy&, Queue) {
    FOMOE_CHECK(false, LinearCrossEntropy::name);
}
void CudaBackend::execute(const AdamW&, Queue) { FOMOE_CHECK(false, AdamW::name); }
void CudaBackend::execute(const SumSquares&, Queue) { FOMOE_CHECK(false, SumSquares::name); }
}  // namespace fomoe
