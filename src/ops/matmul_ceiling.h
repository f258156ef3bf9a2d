// The f32 matmul speed of this machine, which model FLOP utilisation is measured against.
#pragma once

namespace fomoe {

// GFLOP/s of oneDNN's best f32 matmul of 512 to 2048 rows and columns with `threads` threads. Takes
// about a second.
double cpu_matmul_ceiling(int threads);

}  // namespace fomoe
