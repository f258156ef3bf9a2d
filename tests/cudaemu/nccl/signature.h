// What all ranks must say alike about a call, and sizes and sums of NCCL's types.
#pragma once

#include <nccl.h>

#include <cstdint>
#include <span>
#include <string>

namespace cudaemu::nccl {

enum class Kind : int32_t { all_reduce, reduce_scatter, all_gather, broadcast, point_to_point };

struct Signature {
    Kind kind = Kind::all_reduce;
    ncclDataType_t type = ncclFloat32;
    ncclRedOp_t op = ncclSum;  // of reductions
    int32_t root = 0;          // of a broadcast
    uint64_t count = 0;
    bool operator==(const Signature&) const = default;
};

const char* name_of(Kind kind);
// "all_reduce of 5 f32, sum".
std::string to_text(const Signature& signature);

// 0: a type that is not served.
size_t size_of(ncclDataType_t type);
bool is_served(ncclRedOp_t op);

// out[i] = the parts' i-th elements, reduced from the last part to the first: as ranks of a ring
// would, in another order than that of the ranks. Like NCCL, a maximum prefers numbers to NaN.
void reduce(void* out, std::span<const char* const> parts, uint64_t count, ncclDataType_t type,
            ncclRedOp_t op);

}  // namespace cudaemu::nccl
