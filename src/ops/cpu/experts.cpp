#include <omp.h>

#include "ops/cpu/activation.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/experts_rows.h"
#include "ops/cpu/lanes.h"
#include "ops/cpu/matmul.h"
#include "ops/scratch.h"

namespace fomoe {
namespace {

// Writes offset, choice and row_of (N K): the row of each choice or -1. Returns the number of rows.
int64_t order_rows(const ExpertsForward& op, int32_t* row_of) {
    const int64_t choices = op.slot.count(), R = op.expert_offset.shape[0];
    const int32_t* slot = op.slot.as<int32_t>();
    int32_t* offset = op.offset.as<int32_t>();
    int32_t* choice = op.choice.as<int32_t>();
    std::fill(offset, offset + R + 1, 0);
    for (int64_t i = 0; i < choices; ++i) {
        FOMOE_CHECK(slot[i] < R, "slot ", slot[i], " of ", R);
        if (slot[i] >= 0) ++offset[slot[i]];
    }
    // offset[s] counts slot s; make it the slot's first row, then its next free row, then its end.
    int32_t next = 0;
    for (int64_t s = 0; s <= R; ++s) {
        const int32_t rows = offset[s];
        offset[s] = next;
        next += rows;
    }
    FOMOE_CHECK(next <= op.choice.shape[0], next, " rows, room for ", op.choice.shape[0]);
    for (int64_t i = 0; i < choices; ++i) {
        row_of[i] = slot[i] < 0 ? -1 : offset[slot[i]]++;
        if (row_of[i] >= 0) choice[row_of[i]] = static_cast<int32_t>(i);
    }
    for (int64_t s = R; s > 0; --s) offset[s] = offset[s - 1];
    offset[0] = 0;
    return next;
}

// Where what will be kept in T is computed in f32.
float* unrounded(float* kept, float*) { return kept; }
float* unrounded(bf16*, float* block) { return block; }

void keep_row(float*, const float*, int64_t) {}
void keep_row(bf16* kept, const float* row, int64_t size) {
    for_lanes(size, [=](int64_t i, auto vec) { vec.store(kept + i, vec.load(row + i)); });
}

}  // namespace

int64_t cpu_experts_scratch(int64_t N, int64_t K, int64_t M, int64_t D, int64_t F,
                            Activation activation, DType dtype, bool frozen, int threads) {
    const ExpertsSizes sizes{N, K, M, D, F, matrices_in(activation) * F, dtype, frozen, threads};
    return std::max(sizes.forward(), sizes.backward()) * int64_t{sizeof(float)};
}

template <class T>
void CpuBackend::experts_forward(const ExpertsForward& op) {
    const int64_t N = op.x.shape[0], D = op.x.shape[1], K = op.slot.shape[1];
    const int64_t R = op.expert_offset.shape[0], M = op.choice.shape[0];
    const int64_t F = op.d_expert, wide = op.matrices() * F;
    const ExpertsSizes sizes{N, K, M, D, F, wide, op.x.dtype, op.n_frozen > 0, threads_};
    Pieces pieces(workspace_.reserve(sizes.forward()), sizes.forward());
    int32_t* row_of = pieces.take<int32_t>(N * K);
    float* decoded = pieces.take(threads_ * sizes.thread_expert());
    float* blocks = pieces.take(threads_ * sizes.thread_block());
    float* out = pieces.take(M * D);  // what the experts say, row by row

    const int64_t rows = order_rows(op, row_of);
    const int32_t* offset = op.offset.as<int32_t>();
    const int32_t* choice = op.choice.as<int32_t>();
    const float* gate = op.gate.as<float>();
    const T* x = op.x.as<T>();
    T *y = op.y.as<T>(), *all_hidden = op.hidden.as<T>();

#pragma omp parallel num_threads(threads_)
    {
        const int t = omp_get_thread_num();
        Pieces block(blocks + t * sizes.thread_block(), sizes.thread_block());
        T* input = block.take<T>(kExpertBlock * D);
        T* active = block.take<T>(kExpertBlock * F);
        float* block_hidden = block.take(sizes.block_hidden());
        ExpertWeights weights(op, decoded + t * sizes.thread_expert());
        const auto through_expert = [&](int64_t s, int64_t begin, int64_t end) {
            T* kept = all_hidden + begin * wide;
            float* hidden = unrounded(kept, block_hidden);
            gather_rows(input, x, choice + begin, end - begin, K, D);
            multiply({.c = hidden,
                      .stride = wide,
                      .a = {input, D},
                      .b = weights.in(s, true),
                      .m = end - begin,
                      .n = wide,
                      .k = D});
            for (int64_t i = 0; i < end - begin; ++i) {
                activate_row(op.activation, F, hidden + i * wide, active + i * F);
                keep_row(kept + i * wide, hidden + i * wide, wide);
            }
            multiply({.c = out + begin * D,
                      .stride = D,
                      .a = {active, F},
                      .b = weights.out(s, true),
                      .m = end - begin,
                      .n = D,
                      .k = F});
        };
        for_expert_blocks(offset, R, rows * t / threads_, rows * (t + 1) / threads_, kExpertBlock,
                          through_expert);
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; ++n)
            return_row(y + n * D, out, row_of + n * K, gate + n * K, K, D);
    }
}

void CpuBackend::execute(const ExpertsForward& op, Queue) {
    with_element(op.x.dtype, [&]<class T>(const T*) { experts_forward<T>(op); });
}

}  // namespace fomoe
