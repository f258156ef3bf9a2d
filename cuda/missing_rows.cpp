// Ops that are not there yet.
#include "cuda/cuda_backend.h"

namespace fomoe {
void CudaBackend::execute(const Router&, Queue) { FOMOE_CHECK(false, Router::name); }
void CudaBackend::execute(const RouterBackward&, Queue) {
    FOMOE_CHECK(false, RouterBackward::name);
}
void CudaBackend::execute(const Balance&, Queue) { FOMOE_CHECK(false, Balance::name); }
}  // namespace fomoe
