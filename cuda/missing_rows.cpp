// Ops that are not there yet.
#include "cuda/cuda_backend.h"

namespace fomoe {
void CudaBackend::execute(const Embedding&, Queue) { FOMOE_CHECK(false, Embedding::name); }
void CudaBackend::execute(const EmbeddingBackward&, Queue) {
    FOMOE_CHECK(false, EmbeddingBackward::name);
}
void CudaBackend::execute(const RmsNorm&, Queue) { FOMOE_CHECK(false, RmsNorm::name); }
void CudaBackend::execute(const RmsNormBackward&, Queue) {
    FOMOE_CHECK(false, RmsNormBackward::name);
}
void CudaBackend::execute(const Rope&, Queue) { FOMOE_CHECK(false, Rope::name); }
void CudaBackend::execute(const RopeBackward&, Queue) { FOMOE_CHECK(false, RopeBackward::name); }
void CudaBackend::execute(const Activate&, Queue) { FOMOE_CHECK(false, Activate::name); }
void CudaBackend::execute(const ActivateBackward&, Queue) {
    FOMOE_CHECK(false, ActivateBackward::name);
}
void CudaBackend::execute(const Router&, Queue) { FOMOE_CHECK(false, Router::name); }
void CudaBackend::execute(const RouterBackward&, Queue) {
    FOMOE_CHECK(false, RouterBackward::name);
}
void CudaBackend::execute(const Balance&, Queue) { FOMOE_CHECK(false, Balance::name); }
}  // namespace fomoe
