// Rows go through in batches: first every thread takes its rows back through their experts, then
// the threads share the weight gradients of the batch.
#include <omp.h>

#include "ops/cpu/activation.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/experts_rows.h"
#include "ops/cpu/matmul.h"

namespace fomoe {
namespace {

// Rows of a batch, in the common memory of the threads.
template <class T>
struct Batch {
    int64_t begin, end;
    T* x;        // (rows, D)
    T* dy;       // (rows, D)
    T* active;   // (rows, F), gate * a
    T* dhidden;  // (rows, U F)
};

// The end of the batch that begins at row `begin`: where an expert ends, if one does in the later
// half.
int64_t batch_end(const int32_t* offset, int64_t R, int64_t begin, int64_t rows, int64_t largest) {
    if (begin + largest >= rows) return rows;
    const int64_t end = *(std::upper_bound(offset, offset + R + 1, begin + largest) - 1);
    return end > begin + largest / 2 ? end : begin + largest;
}

template <class T>
class Backward {
public:
    Backward(const ExpertsBackward& op, T* dinput)
        : op_(op),
          D_(op.x.shape[1]),
          K_(op.slot.shape[1]),
          F_(op.d_expert),
          wide_(op.matrices() * op.d_expert),
          dinput_(dinput) {}

    // dgate, dinput and the batch's memory for the rows [begin, end) of slot s.
    void through_expert(const Batch<T>& batch, ExpertWeights& weights, int64_t s, int64_t begin,
                        int64_t end) const {
        const int64_t at = begin - batch.begin, rows = end - begin;
        const int32_t* choice = op_.choice.as<int32_t>() + begin;
        T *dy = batch.dy + at * D_, *active = batch.active + at * F_;
        T* dhidden = batch.dhidden + at * wide_;
        gather_rows(batch.x + at * D_, op_.x.as<T>(), choice, rows, K_, D_);
        gather_rows(dy, op_.dy.as<T>(), choice, rows, K_, D_);
        multiply({.c = active,
                  .stride = F_,
                  .a = {dy, D_},
                  .b = weights.out(s, false),
                  .m = rows,
                  .n = F_,
                  .k = D_});
        const T* hidden = op_.hidden.as<T>() + begin * wide_;
        for (int64_t i = 0; i < rows; ++i) {
            op_.dgate.as<float>()[choice[i]] = activate_row_gated_backward(
                op_.activation, F_, op_.gate.as<float>()[choice[i]], hidden + i * wide_,
                active + i * F_, dhidden + i * wide_);
        }
        multiply({.c = dinput_ + begin * D_,
                  .stride = D_,
                  .a = {dhidden, wide_},
                  .b = weights.in(s, false),
                  .m = rows,
                  .n = D_,
                  .k = wide_});
    }

    // This thread's part of the gradients of expert s from its rows [begin, end) in the batch; none
    // of a frozen one.
    void weight_gradients(const Batch<T>& batch, int64_t s, int64_t begin, int64_t end, int thread,
                          int threads) const {
        if (s >= trained()) return;
        const int64_t at = begin - batch.begin;
        const int32_t* offset = op_.offset.as<int32_t>() + s;
        const bool accumulate = op_.accumulate_dweights || begin > offset[0];  // a later batch
        const bool stream = end == offset[1];
        float* dw_in = gradient_of(s);
        const Matmul in{.c = dw_in,
                        .stride = D_,
                        .a = {batch.dhidden + at * wide_, wide_, true},
                        .b = {batch.x + at * D_, D_},
                        .m = wide_,
                        .n = D_,
                        .k = end - begin,
                        .accumulate = accumulate,
                        .stream = stream};
        const Matmul out{.c = dw_in + wide_ * D_,
                         .stride = F_,
                         .a = {batch.dy + at * D_, D_, true},
                         .b = {batch.active + at * F_, F_},
                         .m = D_,
                         .n = F_,
                         .k = end - begin,
                         .accumulate = accumulate,
                         .stream = stream};
        multiply(in.share(thread, threads));
        multiply(out.share(thread, threads));
    }

    // Zeros for an expert without rows.
    void clear_without_rows(int64_t s) const {
        const int32_t* offset = op_.offset.as<int32_t>();
        if (s < trained() && offset[s] == offset[s + 1])
            std::fill_n(gradient_of(s), (wide_ + F_) * D_, 0.0f);
    }

private:
    int64_t trained() const { return op_.expert_offset.shape[0] - op_.n_frozen; }
    float* gradient_of(int64_t s) const {
        return op_.dweights.as<float>() + op_.expert_offset.as<int64_t>()[s];
    }

    const ExpertsBackward& op_;
    int64_t D_, K_, F_, wide_;
    T* dinput_;  // (M, D), the gradient of each row's input
};

}  // namespace

template <class T>
void CpuBackend::experts_backward(const ExpertsBackward& op) {
    const int64_t N = op.x.shape[0], D = op.x.shape[1], K = op.slot.shape[1];
    const int64_t R = op.expert_offset.shape[0], M = op.choice.shape[0];
    const int64_t F = op.d_expert, wide = op.matrices() * F;
    const int64_t largest = expert_batch_rows(M, threads_);
    const ExpertsSizes sizes{N, K, M, D, F, wide, op.x.dtype, op.n_frozen > 0, threads_};
    Pieces pieces(workspace_.reserve(sizes.backward()), sizes.backward());
    int32_t* row_of = pieces.take<int32_t>(N * K);
    float* decoded = pieces.take(threads_ * sizes.thread_expert());
    Batch<T> memory{.begin = 0,
                    .end = 0,
                    .x = pieces.take<T>(largest * D),
                    .dy = pieces.take<T>(largest * D),
                    .active = pieces.take<T>(largest * F),
                    .dhidden = pieces.take<T>(largest * wide)};
    T* dinput = pieces.take<T>(M * D);

    const int32_t* offset = op.offset.as<int32_t>();
    const int32_t* choice = op.choice.as<int32_t>();
    const int64_t rows = offset[R];
    T* dx = op.dx.as<T>();
    float* dgate = op.dgate.as<float>();
    std::fill(row_of, row_of + N * K, -1);
    for (int64_t r = 0; r < rows; ++r) row_of[choice[r]] = static_cast<int32_t>(r);
    std::fill(dgate, dgate + N * K, 0.0f);

    const Backward<T> backward(op, dinput);
#pragma omp parallel num_threads(threads_)
    {
        const int t = omp_get_thread_num();
        Batch<T> batch = memory;
        ExpertWeights weights(op, decoded + t * sizes.thread_expert());
        for (batch.begin = 0; batch.begin < rows; batch.begin = batch.end) {
            batch.end = batch_end(offset, R, batch.begin, rows, largest);
            const int64_t size = batch.end - batch.begin;
            for_expert_blocks(offset, R, batch.begin + size * t / threads_,
                              batch.begin + size * (t + 1) / threads_, kExpertBlock,
                              [&](int64_t s, int64_t begin, int64_t end) {
                                  backward.through_expert(batch, weights, s, begin, end);
                              });
#pragma omp barrier
            if (!op.dweights) continue;
            for_expert_blocks(offset, R, batch.begin, batch.end, largest,
                              [&](int64_t s, int64_t begin, int64_t end) {
                                  backward.weight_gradients(batch, s, begin, end, t, threads_);
                              });
#pragma omp barrier
        }
        if (op.dweights && !op.accumulate_dweights) {
#pragma omp for schedule(static) nowait
            for (int64_t s = 0; s < R; ++s) backward.clear_without_rows(s);
        }
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; ++n)
            return_row(dx + n * D, dinput, row_of + n * K, nullptr, K, D);
    }
}

void CpuBackend::execute(const ExpertsBackward& op, Queue) {
    with_element(op.x.dtype, [&]<class T>(const T*) { experts_backward<T>(op); });
}

}  // namespace fomoe
