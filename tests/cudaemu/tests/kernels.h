// Launches of the kernels of check_kernels.cu and runtime_kernels.cu.
#pragma once

#include <cuda_runtime_api.h>

// In check_kernels.cu each line with a bug has the comment "BUG: name" of its kernel.
namespace check_kernels {

void out_of_bounds(float* x, int count, cudaStream_t stream = nullptr);
void out_of_bounds_shared(float* x);
void misaligned(float* x);
void host_pointer(float* x, const float* host);
void uninitialised_global(const float* never_written, float* x);
void uninitialised_shared(float* x);
void divergent_barrier(float* x);
void waits_for_nobody(float* x);
void endless(int* x);

// Shared memory: with a bug, or correct.
void neighbours(float* x, bool barrier);       // a block barrier
void lane_neighbours(float* x, bool barrier);  // a warp barrier
void pairs(float* x, bool whole_pair);         // warp barriers of two lanes
void reused_buffer(float* x, bool barrier);    // between the last read and the next write
void one_flag(int* x, bool one_writer);
void halves(unsigned short* x);  // neighbours within a word: correct

// Global memory.
void blocks_overlap(int* x, bool overlap);
void reads_of_all_blocks_then_write(int* x);
void count_in_global(int* x, bool atomic);

// cp.async
enum class Async { correct, no_wait, no_barrier, overwrites, partial_copy };
void async_copy(const float* from, float* to, Async variant);

}  // namespace check_kernels

namespace runtime_kernels {

void add(float* x, int count, float value, cudaStream_t stream = nullptr);
// Sets x[i] to i through dynamic shared memory of `shared` bytes.
void shared_iota(float* x, int threads, size_t shared);
const void* shared_iota_function();
void bounded(int threads);  // __launch_bounds__(64)
void read_table(float* x);  // 4 floats of a __constant__ table
const void* table_symbol();

}  // namespace runtime_kernels

void launch_compressed();  // of an object whose PTX is compressed
void launch_without_ptx();
