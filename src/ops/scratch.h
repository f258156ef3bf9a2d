// Memory that the big CPU ops keep beside their operands, for a prediction before anything runs.
// The ops share one block: the largest of these is held per process.
#pragma once

#include "ops/experts.h"

namespace fomoe {

// Bytes for rows (N, D) and a vocabulary of V, with gradients.
int64_t cpu_cross_entropy_scratch(int64_t N, int64_t D, int64_t V, DType dtype, int threads);

// Bytes for sequences of T tokens, backward.
int64_t cpu_attention_scratch(int64_t T, int64_t sequences, int64_t kv_heads, int64_t head_size,
                              int threads);

// Bytes for N tokens with K choices each, and room for M rows; both passes. `frozen`: some experts
// are.
int64_t cpu_experts_scratch(int64_t N, int64_t K, int64_t M, int64_t D, int64_t F,
                            Activation activation, DType dtype, bool frozen, int threads);

}  // namespace fomoe
