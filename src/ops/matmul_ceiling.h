// The matmul speed of this machine, which model FLOP utilisation is measured against.
#pragma once

#include "ops/backend.h"

namespace fomoe {

// GFLOP/s of oneDNN's best f32 matmul of 512 rows and columns with `threads` threads, or of 1024 and
// 2048 as long as they are faster. Takes a fraction of a second.
double cpu_matmul_ceiling(int threads);

// GFLOP/s of the backend in matmuls of this dtype, in the largest of up to 4096 rows and columns.
// On the CPU, which computes in f32 whatever the dtype, cpu_matmul_ceiling().
double matmul_ceiling(Backend& backend, DType dtype, int threads);

}  // namespace fomoe
