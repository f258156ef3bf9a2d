// Dense matmuls of row-major matrices by cuBLASLt.
#pragma once

#include <cublasLt.h>

#include <compare>
#include <functional>
#include <map>
#include <memory>

#include "cuda/cuda_backend.h"

namespace fomoe {

// A matrix in device memory, its rows `stride` elements apart, or the transpose of what lies there.
struct Matrix {
    const void* data;
    DType dtype;  // f32 or bf16
    int64_t stride;
    bool transposed = false;
};

// c = a b, or c += a b with accumulate. a and b have one dtype; c has it too, or is f32. Sums are
// f32 and rounded once. Nothing is read of c without accumulate.
struct Matmul {
    void* c;  // (m, n)
    DType dtype;
    int64_t stride;
    Matrix a;  // (m, k)
    Matrix b;  // (k, n)
    int64_t m, n, k;
    bool accumulate = false;
};

void multiply(const Stream& s, const Matmul& matmul);

// The same without cuBLASLt and without tensor cores: any shape and alignment, slowly.
void multiply_plainly(cudaStream_t stream, const Matmul& matmul);

// What cuBLASLt needs beside the operands: a handle, a workspace, and for each shape the algorithms
// that it advises, asked once. Of one stream.
class Blas {
public:
    Blas(std::function<void*(int64_t)> allocate, std::function<void(void*)> release);
    ~Blas();
    Blas(const Blas&) = delete;
    Blas& operator=(const Blas&) = delete;

    // With `tf32`, f32 operands are rounded to 10 bits of mantissa.
    void multiply(cudaStream_t stream, const Matmul& matmul, bool tf32);
    void reset_workspace() { workspace_.reset(); }  // as before each matmul

private:
    // All that algorithms depend on.
    struct Key {
        struct Operand {
            DType dtype;
            int64_t stride;
            bool transposed;
            uint32_t alignment;  // of the address, bytes
            auto operator<=>(const Operand&) const = default;
        };
        int64_t m, n, k;
        Operand a, b, c;
        bool tf32;
        auto operator<=>(const Key&) const = default;
    };
    struct Plan;

    std::unique_ptr<Plan> plan(const Key& key) const;

    cublasLtHandle_t handle_ = nullptr;
    Scratch workspace_;
    std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace fomoe
