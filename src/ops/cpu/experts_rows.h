// What both passes of the experts share: blocks of rows, the way back from rows to tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ops/cpu/workspace.h"

namespace fomoe {

constexpr int64_t kExpertBlock = 256;  // rows that one thread takes through an expert at a time

// Rows that go through the backward pass together.
inline int64_t expert_batch_rows(int64_t M, int threads) {
    return std::min(M, kExpertBlock * std::max(threads, 2));
}

struct ExpertsSizes {
    int64_t N, K, M, D, F, wide;  // wide is U F
    int threads;

    // Both passes: the rows of the choices, and what goes back to the tokens, row by row.
    int64_t common() const { return Pieces::padded(N * K) + Pieces::padded(M * D); }
    int64_t thread_block() const { return Pieces::padded(kExpertBlock * (D + F)); }
    int64_t forward() const { return common() + threads * thread_block(); }
    int64_t backward() const {
        const int64_t rows = expert_batch_rows(M, threads);
        return common() + 2 * Pieces::padded(rows * D) + Pieces::padded(rows * F) +
               Pieces::padded(rows * wide);
    }
};

// Calls work(slot, begin, end) for the rows [begin, end) cut where experts change, and into even
// blocks of at most `largest` rows.
template <class Work>
void for_expert_blocks(const int32_t* offset, int64_t R, int64_t begin, int64_t end,
                       int64_t largest, Work work) {
    int64_t s = std::upper_bound(offset, offset + R + 1, begin) - offset - 1;
    for (; s < R && offset[s] < end; ++s) {
        const int64_t from = std::max<int64_t>(begin, offset[s]);
        const int64_t rows = std::min<int64_t>(end, offset[s + 1]) - from;
        const int64_t blocks = (rows + largest - 1) / largest;
        for (int64_t b = 0; b < blocks; ++b)
            work(s, from + rows * b / blocks, from + rows * (b + 1) / blocks);
    }
}

// to[i] = from[choice[i] / K] for `rows` rows.
inline void gather_rows(float* to, const float* from, const int32_t* choice, int64_t rows,
                        int64_t K, int64_t D) {
    for (int64_t i = 0; i < rows; ++i)
        std::memcpy(to + i * D, from + choice[i] / K * D, D * sizeof(float));
}

// sum (D) = the sum over k of gate[k] * rows[row[k]], in rising k, over the k with row[k] >= 0. No
// gate counts as 1.
inline void return_row(float* sum, const float* rows, const int32_t* row, const float* gate,
                       int64_t K, int64_t D) {
    bool first = true;
    for (int64_t k = 0; k < K; ++k) {
        if (row[k] < 0) continue;
        const float* from = rows + row[k] * D;
        const float weight = gate ? gate[k] : 1.0f;
        if (first) {
#pragma omp simd
            for (int64_t d = 0; d < D; ++d) sum[d] = weight * from[d];
        } else {
#pragma omp simd
            for (int64_t d = 0; d < D; ++d) sum[d] += weight * from[d];
        }
        first = false;
    }
    if (first) std::memset(sum, 0, D * sizeof(float));
}

}  // namespace fomoe
