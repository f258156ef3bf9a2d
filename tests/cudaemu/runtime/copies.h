// Copies and fills, checked against the allocations.
#pragma once

#include <driver_types.h>

#include <cstddef>

namespace cudaemu {

// `rows` of `bytes` each, pitches in bytes.
struct CopyRequest {
    void* to = nullptr;
    size_t to_pitch = 0;
    const void* from = nullptr;
    size_t from_pitch = 0;
    size_t bytes = 0, rows = 1;
    cudaMemcpyKind kind = cudaMemcpyDefault;
};
// The host's memory is read and written when the stream runs, as if it were pinned.
void copy(const CopyRequest& request, cudaStream_t stream);
// In the legacy stream; waits when the host takes part.
void copy_and_wait(const CopyRequest& request);

struct FillRequest {
    void* to = nullptr;
    size_t pitch = 0;
    size_t bytes = 0, rows = 1;
    int value = 0;
};
void fill(const FillRequest& request, cudaStream_t stream);

}  // namespace cudaemu
