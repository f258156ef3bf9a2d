// Launches of the kernels of metrics_kernels.cu, each with blocks of one warp.
#pragma once

#include <cstdint>

namespace metrics_kernels {

// Lane l copies from[l * stride + offset] to to[l].
void copy(float* to, const float* from, int stride, int offset);
// Every block copies the same 128 floats, 4 a lane.
void copy_wide(float* to, const float* from, int blocks);
void copy_half(uint16_t* to, const uint16_t* from);  // 24 elements
// Every block reads `count` floats, so many times.
void read_again(float* to, const float* from, int count, int times, int blocks);

// Lane l writes and reads word l * stride of shared memory, or 4 words from 4 * l * stride on.
void shared(float* to, int stride);
void shared_wide(float* to, int stride);
// ldmatrix.x4 of rows that lie row_bytes apart; swizzled: row r begins at 16 (r % 8) of them.
void matrix(uint32_t* to, int row_bytes, bool swizzled);
// cp.async of 16 bytes a lane, 8 of the last, to shared memory as shared_wide().
void async(float* to, const float* from, int shared_stride);

void atomic(int* counts);  // 8 lanes each to 4 sectors
void work(float* to, const float* from, double* wide);
void mma(float* to);

}  // namespace metrics_kernels
