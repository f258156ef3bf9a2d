// A matmul as cuBLASLt's descriptors say it, and whether the library could run it.
#pragma once

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <string>

namespace cudaemu::blas {

struct Description {
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    cudaDataType_t scale = CUDA_R_32F;
    cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;

    bool operator==(const Description&) const = default;
};

// Column-major; columns begin `stride` elements apart.
struct Layout {
    cudaDataType_t type = CUDA_R_32F;
    uint64_t rows = 0, columns = 0;
    int64_t stride = 0;

    bool operator==(const Layout&) const = default;
};

struct Preference {
    uint64_t workspace = 0;  // bytes at most
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
    std::array<uint32_t, 4> alignment{256, 256, 256, 256};  // of the addresses of a, b, c, d
};

// d (m, n) = alpha op(a) op(b) + beta c, with op(a) (m, k) and op(b) (k, n).
struct Problem {
    Description description;
    Layout a, b, c, d;

    uint64_t m() const { return d.rows; }
    uint64_t n() const { return d.columns; }
    uint64_t k() const { return description.a == CUBLAS_OP_N ? a.columns : a.rows; }
    bool operator==(const Problem&) const = default;
};

size_t size_of(cudaDataType_t type);  // bytes of an element; 0: not known here

struct Verdict {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    std::string reason;
};
// By the table of types of cublasLtMatmul in NVIDIA's manual. INVALID_VALUE: contradicts itself;
// NOT_SUPPORTED: the library, or this replacement, cannot do it.
Verdict judge(const Problem& problem);

}  // namespace cudaemu::blas
