// Compiled for one architecture, without PTX.
#include "tests/kernels.h"

namespace {
__global__ void kernel_without_ptx() {}
}  // namespace

void launch_without_ptx() { kernel_without_ptx<<<1, 1>>>(); }
