// Small correct kernels for the tests of the runtime.
#include "tests/kernels.h"

namespace runtime_kernels {
namespace {

__constant__ float table[4] = {1, 2, 3, 4};

__global__ void add_kernel(float* x, int count, float value) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] += value;
}

__global__ void shared_iota_kernel(float* x) {
    extern __shared__ float row[];
    row[threadIdx.x] = threadIdx.x;
    x[threadIdx.x] = row[threadIdx.x];
}

__global__ void __launch_bounds__(64) bounded_kernel() {}

__global__ void read_table_kernel(float* x) { x[threadIdx.x] = table[threadIdx.x]; }

}  // namespace

void add(float* x, int count, float value, cudaStream_t stream) {
    add_kernel<<<(count + 63) / 64, 64, 0, stream>>>(x, count, value);
}
void shared_iota(float* x, int threads, size_t shared) {
    shared_iota_kernel<<<1, threads, shared>>>(x);
}
const void* shared_iota_function() { return reinterpret_cast<const void*>(shared_iota_kernel); }
void bounded(int threads) { bounded_kernel<<<1, threads>>>(); }
void read_table(float* x) { read_table_kernel<<<1, 4>>>(x); }
const void* table_symbol() { return table; }

}  // namespace runtime_kernels
