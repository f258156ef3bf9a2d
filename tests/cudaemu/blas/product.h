// The work of a matmul, when its stream comes to it.
#pragma once

#include "blas/problem.h"

namespace cudaemu::blas {

struct Product {
    Problem problem;
    float alpha = 1, beta = 0;
    const void* a = nullptr;  // on the device, as all addresses here
    const void* b = nullptr;
    const void* c = nullptr;  // not read where beta is 0
    void* d = nullptr;
    void* workspace = nullptr;
    size_t workspace_bytes = 0;  // what the algorithm uses of it; left overwritten
};

// Sums in f32; with TF32 the operands are rounded first. Operands outside of an allocation are
// reported, and nothing is computed.
void compute(const Product& product);

}  // namespace cudaemu::blas
