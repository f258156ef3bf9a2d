// What cublasLtMatmulAlgo_t holds here: the matmul it was advised for and what it relies on.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "blas/problem.h"

namespace cudaemu::blas {

struct Algorithm {
    uint64_t problem = 0;                 // a fingerprint
    uint64_t workspace = 0;               // bytes
    std::array<uint32_t, 4> alignment{};  // of the addresses of a, b, c, d; bytes
};

uint64_t fingerprint(const Problem& problem);

// The best first: one that shares the sums among blocks and needs a workspace for that, where the
// preference lets it, and one that does not.
std::vector<Algorithm> advise(const Problem& problem, const Preference& preference);

cublasLtMatmulAlgo_t pack(const Algorithm& algorithm);
// Nothing when pack() did not make it.
std::optional<Algorithm> unpack(const cublasLtMatmulAlgo_t& algorithm);

}  // namespace cudaemu::blas
