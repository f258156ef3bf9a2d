// Kernels whose requests can be counted by hand. A line that is counted ends with "AT: name".
#include <cstdint>

#include "tests/metrics_kernels.h"

namespace metrics_kernels {
namespace {

__global__ void copy_kernel(float* to, const float* from, int stride, int offset) {
    const float x = from[threadIdx.x * stride + offset];  // AT: load
    to[threadIdx.x] = x;                                  // AT: store
}

__global__ void copy_wide_kernel(float4* to, const float4* from) {
    to[threadIdx.x] = from[threadIdx.x];  // AT: load4
}

__global__ void copy_half_kernel(uint16_t* to, const uint16_t* from) {
    if (threadIdx.x < 24) to[threadIdx.x] = from[threadIdx.x];  // AT: load2
}

__global__ void read_again_kernel(float* to, const float* from, int count, int times) {
    float sum = 0;
    for (int time = 0; time < times; ++time)
        for (int i = threadIdx.x; i < count; i += blockDim.x) sum += __ldcv(from + i);  // AT: again
    to[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

__global__ void shared_kernel(float* to, int stride) {
    __shared__ float memory[32 * 32];
    volatile float* const x = memory;
    x[threadIdx.x * stride] = threadIdx.x;      // AT: to_shared
    to[threadIdx.x] = x[threadIdx.x * stride];  // AT: from_shared
}

__global__ void shared_wide_kernel(float4* to, int stride) {
    __shared__ float4 memory[32 * 8];
    memory[threadIdx.x * stride] = make_float4(1, 2, 3, 4);  // AT: to_shared4
    __syncwarp();
    to[threadIdx.x] = memory[threadIdx.x * stride];  // AT: from_shared4
}

__device__ __forceinline__ void load_matrix(uint32_t (&x)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(row)
                 : "memory");
}

__global__ void matrix_kernel(uint32_t* to, int row_bytes, int swizzled) {
    __shared__ __align__(16) char memory[32 * 256];
    for (int i = threadIdx.x; i < 32 * 256 / 4; i += 32) reinterpret_cast<int*>(memory)[i] = i;
    __syncwarp();
    const int row = threadIdx.x, column = swizzled ? row % 8 : 0;
    const auto address =
        static_cast<uint32_t>(__cvta_generic_to_shared(memory + row * row_bytes + column * 16));
    uint32_t x[4];
    load_matrix(x, address);  // AT: matrix
    to[threadIdx.x] = x[0] + x[1] + x[2] + x[3];
}

__device__ __forceinline__ void copy_async(uint32_t to, const float4* from, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

// The last lane takes only 8 of its bytes.
__global__ void async_kernel(float4* to, const float4* from, int shared_stride) {
    __shared__ float4 memory[32 * 8];
    const auto address =
        static_cast<uint32_t>(__cvta_generic_to_shared(memory + threadIdx.x * shared_stride));
    const uint32_t bytes = threadIdx.x == 31 ? 8 : 16;
    copy_async(address, from + threadIdx.x, bytes);  // AT: async
    asm volatile("cp.async.wait_all;" ::: "memory");
    to[threadIdx.x] = memory[threadIdx.x * shared_stride];
}

__global__ void atomic_kernel(int* counts) {
    atomicAdd(counts + threadIdx.x % 4 * 8, 1);  // AT: atomic
}

__device__ __forceinline__ float inlined(const float* from) {
    return from[threadIdx.x];  // AT: inlined
}

// Of each lane 3 FMAs, 2 sums, a product, a root in f32 and a sum in f64.
__global__ void work_kernel(float* to, const float* from, double* wide) {
    const float a = inlined(from);  // AT: caller
    float x = __fmaf_rn(a, a, 1.0f);
    x = __fmaf_rn(x, a, 2.0f);
    x = __fmaf_rn(x, a, 3.0f);
    x = __fadd_rn(__fadd_rn(x, a), 1.5f);
    x = __fmul_rn(x, a);
    x = rsqrtf(x);
    to[threadIdx.x] = x;
    wide[threadIdx.x] = __dadd_rn(wide[threadIdx.x], 1.0);
}

__global__ void mma_kernel(float* to) {
    float d[4] = {};
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, "
        "{%4, %4}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(0));
    to[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}

}  // namespace

void copy(float* to, const float* from, int stride, int offset) {
    copy_kernel<<<1, 32>>>(to, from, stride, offset);
}
void copy_wide(float* to, const float* from, int blocks) {
    copy_wide_kernel<<<blocks, 32>>>(reinterpret_cast<float4*>(to),
                                     reinterpret_cast<const float4*>(from));
}
void copy_half(uint16_t* to, const uint16_t* from) { copy_half_kernel<<<1, 32>>>(to, from); }
void read_again(float* to, const float* from, int count, int times, int blocks) {
    read_again_kernel<<<blocks, 32>>>(to, from, count, times);
}
void shared(float* to, int stride) { shared_kernel<<<1, 32>>>(to, stride); }
void shared_wide(float* to, int stride) {
    shared_wide_kernel<<<1, 32>>>(reinterpret_cast<float4*>(to), stride);
}
void matrix(uint32_t* to, int row_bytes, bool swizzled) {
    matrix_kernel<<<1, 32>>>(to, row_bytes, swizzled);
}
void async(float* to, const float* from, int shared_stride) {
    async_kernel<<<1, 32>>>(reinterpret_cast<float4*>(to), reinterpret_cast<const float4*>(from),
                            shared_stride);
}
void atomic(int* counts) { atomic_kernel<<<1, 32>>>(counts); }
void work(float* to, const float* from, double* wide) { work_kernel<<<2, 32>>>(to, from, wide); }
void mma(float* to) { mma_kernel<<<1, 32>>>(to); }

}  // namespace metrics_kernels
