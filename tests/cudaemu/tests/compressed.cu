// Compiled as nvcc does by default: its PTX is compressed.
#include "tests/kernels.h"

namespace {
__global__ void compressed_kernel() {}
}  // namespace

void launch_compressed() { compressed_kernel<<<1, 1>>>(); }
