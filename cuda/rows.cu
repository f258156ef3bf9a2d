// The second stage of sums over rows.
#include "cuda/rows.cuh"

namespace fomoe {
namespace {

constexpr int kGroups = 16;  // of rows, each summed by threads of its own

__global__ void __launch_bounds__(kGroups* kWarp) add_column_sums(const ColumnSums a) {
    __shared__ float part[kGroups][kWarp];
    const int64_t c = int64_t{blockIdx.x} * kWarp + threadIdx.x;
    float sum = 0;
    if (c < a.columns) {
#pragma unroll 4
        for (int r = threadIdx.y; r < a.rows; r += kGroups) sum += a.partial[r * a.stride + c];
    }
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || c >= a.columns) return;
    for (int i = 1; i < kGroups; ++i) sum += part[i][threadIdx.x];
    a.sum[c] += sum;
}

}  // namespace

void add_columns(const ColumnSums& sums, const Stream& s) {
    if (sums.columns == 0 || sums.rows == 0) return;
    const unsigned blocks = static_cast<unsigned>(ceil_div<int64_t>(sums.columns, kWarp));
    add_column_sums<<<blocks, dim3(kWarp, kGroups), 0, s.stream>>>(sums);
    check_launch("add_column_sums");
}

}  // namespace fomoe
