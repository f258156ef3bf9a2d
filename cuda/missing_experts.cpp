// Ops that are not there yet.
#include "cuda/cuda_backend.h"

namespace fomoe {
void CudaBackend::execute(const DispatchPlan&, Queue) { FOMOE_CHECK(false, DispatchPlan::name); }
void CudaBackend::execute(const Permute&, Queue) { FOMOE_CHECK(false, Permute::name); }
void CudaBackend::execute(const Combine&, Queue) { FOMOE_CHECK(false, Combine::name); }
void CudaBackend::execute(const ExpertsForward&, Queue) {
    FOMOE_CHECK(false, ExpertsForward::name);
}
void CudaBackend::execute(const ExpertsBackward&, Queue) {
    FOMOE_CHECK(false, ExpertsBackward::name);
}
}  // namespace fomoe
