// The matmul speed of this machine, which model FLOP utilisation is measured against.
#pragma once

#include "ops/backend.h"

namespace fomoe {

// GFLOP/s of oneDNN's best matmul of 512 rows and columns with `threads` threads, or of 1024 and
// 2048 as long as they are faster: in f32, or in bf16 where the CPU backend has matmuls in it.
// Takes a fraction of a second.
double cpu_matmul_ceiling(DType dtype, int threads);

// GFLOP/s of the backend in matmuls of this dtype, in the largest of up to 4096 rows and columns;
// on the CPU cpu_matmul_ceiling().
double matmul_ceiling(Backend& backend, DType dtype, int threads);

}  // namespace fomoe
