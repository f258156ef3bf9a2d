// What this machine reaches at best; model FLOP utilisation is measured against its matmuls.
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

// What no op gets past.
struct Ceilings {
    double gflops = 0;     // 1e9 additions and multiplications a second in a matmul
    double gigabytes = 0;  // 1e9 bytes a second, read and written, in a copy
};
// matmul_ceiling() and the fastest of several copies of 64 MiB.
Ceilings measure_ceilings(Backend& backend, DType dtype, int threads);

}  // namespace fomoe
