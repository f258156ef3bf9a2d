// Ops that are not there yet.
#include "cuda/cuda_backend.h"

namespace fomoe {
void CudaBackend::execute(const AttentionBackward&, Queue) {
    FOMOE_CHECK(false, AttentionBackward::name);
}
}  // namespace fomoe
