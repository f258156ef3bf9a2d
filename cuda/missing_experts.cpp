// Ops that are not there yet.
#include "cuda/cuda_backend.h"

namespace fomoe {
void CudaBackend::execute(const ExpertsBackward&, Queue) {
    FOMOE_CHECK(false, ExpertsBackward::name);
}
}  // namespace fomoe
