// Casts inside other ops.
#pragma once

#include "cuda/cuda_backend.h"

namespace fomoe {

// `to` = `from`, as many elements, f32 to bf16 or bf16 to f32.
void launch_cast(const Stream& s, const Tensor& to, const ConstTensor& from);

}  // namespace fomoe
