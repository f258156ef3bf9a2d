// Kernels with one deliberate bug each, and correct ones that look like them.
#include <cstdint>

#include "tests/kernels.h"

namespace check_kernels {
namespace {

__global__ void out_of_bounds_kernel(float* x, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= count) x[i] = 1;  // BUG: out_of_bounds
}

__global__ void out_of_bounds_shared_kernel(float* x) {
    extern __shared__ float row[];
    row[threadIdx.x + 1] = 2;  // BUG: out_of_bounds_shared
    __syncthreads();
    x[threadIdx.x] = row[threadIdx.x + 1];
}

__global__ void misaligned_kernel(float* x) {
    *reinterpret_cast<float4*>(x + 1) = make_float4(1, 2, 3, 4);  // BUG: misaligned
}

__global__ void host_pointer_kernel(float* x, const float* host) {
    x[0] = *host;  // BUG: host_pointer
}

__global__ void uninitialised_global_kernel(const float* never_written, float* x) {
    x[threadIdx.x] = never_written[threadIdx.x];  // BUG: uninitialised_global
}

__global__ void uninitialised_shared_kernel(float* x) {
    __shared__ float row[32];
    if (threadIdx.x != 7) row[threadIdx.x] = 1;
    __syncthreads();
    x[threadIdx.x] = row[threadIdx.x];  // BUG: uninitialised_shared
}

__global__ void divergent_barrier_kernel(float* x) {
    if (threadIdx.x < 32) {
        x[threadIdx.x] = 1;
        __syncthreads();
    } else {
        x[threadIdx.x] = 2;
        __syncthreads();  // BUG: divergent_barrier
    }
}

__global__ void waits_for_nobody_kernel(float* x) {
    if (threadIdx.x < 16)
        x[threadIdx.x] = __shfl_sync(0xffffffff, x[threadIdx.x], 3);  // BUG: waits_for_nobody
    else
        __syncwarp();
}

__global__ void endless_kernel(volatile int* x) {
    while (*x == 0) continue;
}

__global__ void neighbours_kernel(float* x, bool barrier) {
    __shared__ float row[256];
    row[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    x[threadIdx.x] = row[(threadIdx.x + 32) % 256];  // BUG: neighbours
}

__global__ void lane_neighbours_kernel(float* x, bool barrier) {
    __shared__ float row[64];
    row[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncwarp();
    x[threadIdx.x] = row[threadIdx.x ^ 1];  // BUG: lane_neighbours
}

__global__ void pairs_kernel(float* x, bool whole_pair) {
    __shared__ float row[32];
    const uint32_t lane = threadIdx.x;
    const uint32_t other = whole_pair ? lane ^ 1 : lane ^ 2;
    row[lane] = x[lane];
    for (int pair = 0; pair < 16; ++pair)
        if (lane / 2 == pair) __syncwarp(3u << 2 * pair);
    x[lane] = row[other];  // BUG: pairs
}

__global__ void reused_buffer_kernel(float* x, bool barrier) {
    __shared__ float row[64];
    float sum = 0;
    for (int step = 0; step < 3; ++step) {
        row[threadIdx.x] = x[threadIdx.x] + step;  // BUG: reused_buffer
        __syncthreads();
        sum += row[63 - threadIdx.x];
        if (barrier) __syncthreads();
    }
    x[threadIdx.x] = sum;
}

__global__ void one_flag_kernel(int* x, bool one_writer) {
    __shared__ int flag;
    if (!one_writer || threadIdx.x == 0) flag = x[64];  // BUG: one_flag
    __syncthreads();
    x[threadIdx.x] = flag;
}

__global__ void halves_kernel(unsigned short* x) {
    __shared__ unsigned short row[64];
    row[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = row[threadIdx.x] + 1;
}

__global__ void blocks_overlap_kernel(int* x, bool overlap) {
    const int width = overlap ? blockDim.x - 1 : blockDim.x;
    x[blockIdx.x * width + threadIdx.x] = blockIdx.x;  // BUG: blocks_overlap
}

__global__ void reads_of_all_blocks_then_write_kernel(int* x) {
    const int first = x[0];
    x[1 + blockIdx.x] = first;
    if (blockIdx.x == 2) x[0] = first + 1;  // BUG: reads_of_all_blocks_then_write
}

__global__ void count_in_global_kernel(int* x, bool atomic) {
    if (atomic || threadIdx.x != 5)
        atomicAdd(x, 1);
    else
        *x += 1;  // BUG: count_in_global
}

__device__ void async_copy_16_bytes(float* shared, const float* global, int bytes) {
    const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(global)), "r"(bytes)
                 : "memory");
}

template <Async kVariant>
__global__ void async_copy_kernel(const float* from, float* to) {
    __shared__ __align__(16) float rows[64 * 4];
    const int own = threadIdx.x * 4;
    const int other = 4 * (63 - threadIdx.x);
    const int bytes = kVariant == Async::partial_copy ? 8 : 16;
    for (int step = 0; step < 2; ++step) {
        async_copy_16_bytes(rows + own, from + own, bytes);  // BUG: async_overwrites
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (kVariant != Async::no_wait) asm volatile("cp.async.wait_group 0;" ::: "memory");
        if (kVariant != Async::no_barrier) __syncthreads();
        to[own] = rows[other];  // BUG: async_copy
        to[own + 1] = rows[other + 3];
        if (kVariant != Async::overwrites) __syncthreads();
    }
}

}  // namespace

void out_of_bounds(float* x, int count, cudaStream_t stream) {
    out_of_bounds_kernel<<<(count + 64) / 64, 64, 0, stream>>>(x, count);
}
void out_of_bounds_shared(float* x) { out_of_bounds_shared_kernel<<<1, 64, 256>>>(x); }
void misaligned(float* x) { misaligned_kernel<<<1, 1>>>(x); }
void host_pointer(float* x, const float* host) { host_pointer_kernel<<<1, 1>>>(x, host); }
void uninitialised_global(const float* never_written, float* x) {
    uninitialised_global_kernel<<<1, 32>>>(never_written, x);
}
void uninitialised_shared(float* x) { uninitialised_shared_kernel<<<1, 32>>>(x); }
void divergent_barrier(float* x) { divergent_barrier_kernel<<<1, 64>>>(x); }
void waits_for_nobody(float* x) { waits_for_nobody_kernel<<<1, 32>>>(x); }
void endless(int* x) { endless_kernel<<<1, 1>>>(x); }

void neighbours(float* x, bool barrier) { neighbours_kernel<<<1, 256>>>(x, barrier); }
void lane_neighbours(float* x, bool barrier) { lane_neighbours_kernel<<<1, 64>>>(x, barrier); }
void pairs(float* x, bool whole_pair) { pairs_kernel<<<1, 32>>>(x, whole_pair); }
void reused_buffer(float* x, bool barrier) { reused_buffer_kernel<<<1, 64>>>(x, barrier); }
void one_flag(int* x, bool one_writer) { one_flag_kernel<<<1, 64>>>(x, one_writer); }
void halves(unsigned short* x) { halves_kernel<<<1, 64>>>(x); }

void blocks_overlap(int* x, bool overlap) { blocks_overlap_kernel<<<3, 32>>>(x, overlap); }
void reads_of_all_blocks_then_write(int* x) { reads_of_all_blocks_then_write_kernel<<<3, 1>>>(x); }
void count_in_global(int* x, bool atomic) { count_in_global_kernel<<<2, 32>>>(x, atomic); }

void async_copy(const float* from, float* to, Async variant) {
    switch (variant) {
        case Async::correct:
            async_copy_kernel<Async::correct><<<1, 64>>>(from, to);
            break;
        case Async::no_wait:
            async_copy_kernel<Async::no_wait><<<1, 64>>>(from, to);
            break;
        case Async::no_barrier:
            async_copy_kernel<Async::no_barrier><<<1, 64>>>(from, to);
            break;
        case Async::overwrites:
            async_copy_kernel<Async::overwrites><<<1, 64>>>(from, to);
            break;
        case Async::partial_copy:
            async_copy_kernel<Async::partial_copy><<<1, 64>>>(from, to);
            break;
    }
}

}  // namespace check_kernels
