// What both passes of the experts share: blocks of rows, the way back from rows to tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ops/cpu/lanes.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/workspace.h"
#include "ops/experts.h"

namespace fomoe {

constexpr int64_t kExpertBlock = 256;  // rows that one thread takes through an expert at a time

// Rows that go through the backward pass together.
inline int64_t expert_batch_rows(int64_t M, int threads) {
    return std::min(M, kExpertBlock * std::max(threads, 2));
}

struct ExpertsSizes {
    int64_t N, K, M, D, F, wide;  // wide is U F
    DType dtype;
    bool frozen;
    int threads;

    // Both passes: the rows of the choices, and for each thread a frozen expert. What has room for
    // all M rows lies last, since only the rows in use of it are touched.
    int64_t common() const { return Pieces::padded(N * K) + threads * thread_expert(); }
    int64_t thread_expert() const {
        return frozen && dtype == DType::f32 ? Pieces::padded((wide + F) * D) : 0;
    }
    int64_t block_hidden() const {  // before it is rounded
        return dtype == DType::f32 ? 0 : kExpertBlock * wide;
    }
    int64_t thread_block() const {
        return floats(kExpertBlock * D) + floats(kExpertBlock * F) + block_hidden();
    }
    int64_t forward() const { return common() + Pieces::padded(M * D) + threads * thread_block(); }
    int64_t backward() const {
        const int64_t rows = expert_batch_rows(M, threads);
        return common() + floats(M * D) + 2 * floats(rows * D) + floats(rows * F) +
               floats(rows * wide);
    }
    // That so many activations take.
    int64_t floats(int64_t activations) const {
        return Pieces::padded(Pieces::floats(activations, dtype));
    }
};

// The weights of the experts for one thread, which decodes the frozen ones into memory of its own
// unless the matmul takes them as they are.
class ExpertWeights {
public:
    // decoded (expert size) f32.
    template <class AnyExperts>
    ExpertWeights(const AnyExperts& op, float* decoded)
        : weights_(op.weights),
          frozen_(op.frozen),
          offset_(op.expert_offset.template as<int64_t>()),
          first_frozen_(op.expert_offset.shape[0] - op.n_frozen),
          D_(op.x.shape[1]),
          F_(op.d_expert),
          wide_(op.matrices() * op.d_expert),
          decoded_(decoded) {}

    // Of slot s, W_in (U F, D) and W_out (D, F); of a frozen one until the next call.
    MatmulOperand in(int64_t s, bool transposed) { return of(s, 0, D_, transposed); }
    MatmulOperand out(int64_t s, bool transposed) { return of(s, wide_ * D_, F_, transposed); }

private:
    MatmulOperand of(int64_t s, int64_t at, int64_t stride, bool transposed) {
        if (s < first_frozen_) return {weights_, offset_[s] + at, stride, transposed};
        if (weights_.dtype == DType::bf16) return {frozen_, offset_[s] + at, stride, transposed};
        if (s != last_) {
            const bf16* from = frozen_.as<bf16>() + offset_[s];
#pragma omp simd
            for (int64_t i = 0; i < (wide_ + F_) * D_; ++i) decoded_[i] = to_f32(from[i]);
            last_ = s;
        }
        return {decoded_ + at, stride, transposed};
    }

    ConstTensor weights_, frozen_;
    const int64_t* offset_;
    int64_t first_frozen_, D_, F_, wide_;
    float* decoded_;
    int64_t last_ = -1;  // the slot in decoded_
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
template <class T>
void gather_rows(T* to, const T* from, const int32_t* choice, int64_t rows, int64_t K, int64_t D) {
    constexpr int64_t kAhead = 8, kLine = 64 / sizeof(T);  // rows lie here and there
    for (int64_t i = 0; i < rows; ++i) {
        const T* later = from + choice[std::min(i + kAhead, rows - 1)] / K * D;
        for (int64_t d = 0; d < D; d += kLine) __builtin_prefetch(later + d);
        std::memcpy(to + i * D, from + choice[i] / K * D, D * sizeof(T));
    }
}

// sum (D) = the sum over k of gate[k] * rows[row[k]], in rising k, over the k with row[k] >= 0. No
// gate counts as 1.
template <class T, class Row>
void return_row(T* sum, const Row* rows, const int32_t* row, const float* gate, int64_t K,
                int64_t D) {
    const auto weight = [&](int64_t k) { return gate ? gate[k] : 1.0f; };
    for_lanes(D, [&](int64_t d, auto vec) {
        Vec total{};
        for (int64_t k = 0; k < K; ++k)
            if (row[k] >= 0) total += weight(k) * vec.load(rows + row[k] * D + d);
        vec.store(sum + d, total);
    });
}

}  // namespace fomoe
