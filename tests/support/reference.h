// Every op once more, in f64 and plain loops, from its contract alone. Operands are those of the op
// with f64 in the place of f32 (see widened() in pool.h); none share memory.
#pragma once

#include "ops/backend.h"

namespace fomoe {

void reference(const Embedding& op);
void reference(const EmbeddingBackward& op);
void reference(const RmsNorm& op);
void reference(const RmsNormBackward& op);
void reference(const Linear& op);
void reference(const LinearBackward& op);
void reference(const LinearCrossEntropy& op);
void reference(const Activate& op);
void reference(const ActivateBackward& op);
void reference(const AdamW& op);
void reference(const Cast& op);
void reference(const Sum& op);
void reference(const SumSquares& op);
void reference(const ClipScale& op);

void reference(const Rope& op);
void reference(const RopeBackward& op);
void reference(const Attention& op);
void reference(const AttentionBackward& op);
void reference(const CachedAttention& op);

void reference(const Router& op);
void reference(const Balance& op);
void reference(const RouterBackward& op);
void reference(const DispatchPlan& op);
void reference(const Permute& op);
void reference(const Combine& op);
void reference(const ExpertsForward& op);
void reference(const ExpertsBackward& op);

}  // namespace fomoe
