// The loss of the output layer. Rows go through in chunks, whose logits lie in scratch in f32 and
// are replaced by their gradients in the compute dtype, so that the matmuls stay large and the
// memory does not depend on N.
#include <algorithm>

#include "cuda/elementwise.cuh"
#include "cuda/matmul.h"

namespace fomoe {
namespace {

constexpr int64_t kChunkBytes = int64_t{256} << 20;  // of logits
constexpr int64_t kMostRows = 4096;                  // of a chunk; more would save nothing
constexpr int64_t kRowMultiple = 128;                // what tiles of matmuls like
constexpr int kPad = 8;                              // rows of logits begin at multiples of it
constexpr float kLog2E = 1.44269504f;
constexpr int kKept = 7;  // vectors of a row that a thread keeps; what lies behind is read again

struct Chunk {
    float* logits;          // (R, stride)
    float* loss;            // (R)
    const int32_t* target;  // (R)
    int words;              // V
    int64_t stride;         // floats
    float scale;
};

// The sum of e^(z - maximum) over what was added. Of nothing it is {-INFINITY, 0}; the members have
// no initialisers, which shared memory cannot have.
struct ExpSum {
    float maximum, sum;

    __device__ void raise(float to) {
        if (to <= maximum) return;
        sum *= ptx::exp2_approx((maximum - to) * kLog2E);
        maximum = to;
    }
    // A maximum that is below z is raised first.
    __device__ void add(float z) { sum += ptx::exp2_approx((z - maximum) * kLog2E); }
    __device__ void merge(ExpSum other) {
        if (other.sum == 0) return;
        raise(other.maximum);
        sum += other.sum * ptx::exp2_approx((other.maximum - maximum) * kLog2E);
    }
};

template <int threads>
__device__ ExpSum block_merge(ExpSum x) {
    __shared__ ExpSum part[threads / kWarp];
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        const ExpSum other{.maximum = __shfl_xor_sync(kAllLanes, x.maximum, distance),
                           .sum = __shfl_xor_sync(kAllLanes, x.sum, distance)};
        x.merge(other);
    }
    if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = x;
    __syncthreads();
    ExpSum all = part[0];
    for (int i = 1; i < threads / kWarp; ++i) all.merge(part[i]);
    return all;
}

// A block for each row: its loss, and with_gradient the gradient of its logits in their place, from
// the begin of the row on, in elements of T.
template <class T, bool with_gradient, int threads>
__global__ void __launch_bounds__(threads, 1024 / threads) cross_entropy(Chunk chunk) {
    const int64_t row = blockIdx.x;
    float* z = chunk.logits + row * chunk.stride;
    const int words = chunk.words, whole = words / kElementwise * kElementwise;
    constexpr int kStep = threads * kElementwise;  // words that the block takes at a time

    ExpSum thread_sum{.maximum = -INFINITY, .sum = 0};
    const auto take = [&](const Vec<float, kElementwise>& in) {
        thread_sum.raise(fmaxf(fmaxf(in.at[0], in.at[1]), fmaxf(in.at[2], in.at[3])));
        for (int j = 0; j < kElementwise; ++j) thread_sum.add(in.at[j]);
    };
    const int first = threadIdx.x * kElementwise, behind = kKept * kStep;
    Vec<float, kElementwise> kept[kKept];
#pragma unroll
    for (int k = 0; k < kKept; ++k)
        if (first + k * kStep < whole) kept[k] = load<kElementwise>(z + first + k * kStep);
#pragma unroll
    for (int k = 0; k < kKept; ++k)
        if (first + k * kStep < whole) take(kept[k]);
    for (int i = first + behind; i < whole; i += kStep) take(load<kElementwise>(z + i));
    const bool has_tail = static_cast<int>(threadIdx.x) < words - whole;
    float tail = 0;
    if (has_tail) {
        tail = z[whole + threadIdx.x];
        thread_sum.raise(tail);
        thread_sum.add(tail);
    }
    const int target = chunk.target[row];
    const float of_target = target < 0 ? 0.0f : z[target];
    const ExpSum all = block_merge<threads>(thread_sum);
    if (threadIdx.x == 0)
        chunk.loss[row] = target < 0 ? 0.0f : logf(all.sum) + (all.maximum - of_target);
    if constexpr (!with_gradient) return;

    // Gradients never lie behind the logits they are of. The merge came after all logits were read,
    // so those that are kept may be overwritten at once; behind them the gradients of one step
    // overwrite logits of this step and earlier ones only.
    T* dz = reinterpret_cast<T*>(z);
    const float factor = target < 0 ? 0.0f : chunk.scale / all.sum;
    const auto gradient = [&](float logit, int word) {
        const float p =
            target < 0 ? 0.0f : factor * ptx::exp2_approx((logit - all.maximum) * kLog2E);
        return from_float<T>(word == target ? p - chunk.scale : p);
    };
    const auto give = [&](int i, const Vec<float, kElementwise>& in) {
        Vec<T, kElementwise> out;
        for (int j = 0; j < kElementwise; ++j) out.at[j] = gradient(in.at[j], i + j);
        store<kElementwise>(dz + i, out);
    };
#pragma unroll
    for (int k = 0; k < kKept; ++k)
        if (first + k * kStep < whole) give(first + k * kStep, kept[k]);
    for (int begin = behind; begin < whole; begin += kStep) {
        const int i = begin + first;
        Vec<float, kElementwise> in{};
        if (i < whole) in = load<kElementwise>(z + i);
        __syncthreads();
        if (i < whole) give(i, in);
    }
    if (has_tail) dz[whole + threadIdx.x] = gradient(tail, whole + threadIdx.x);
}

template <class T, bool with_gradient>
void launch(const Stream& s, const Chunk& chunk, int64_t rows) {
    const auto grid = static_cast<unsigned>(rows);
    if (chunk.words <= kKept * 128 * kElementwise)
        cross_entropy<T, with_gradient, 128><<<grid, 128, 0, s.stream>>>(chunk);
    else
        cross_entropy<T, with_gradient, 512><<<grid, 512, 0, s.stream>>>(chunk);
    check_launch("cross_entropy");
}

// Rows of each chunk but the last: as many as fit, the chunks about equal.
int64_t rows_of_chunk(int64_t N, int64_t stride) {
    const int64_t fitting = kChunkBytes / (stride * int64_t{sizeof(float)});
    const int64_t most = std::clamp(fitting / kRowMultiple * kRowMultiple, kRowMultiple, kMostRows);
    const int64_t even = ceil_div(N, ceil_div(N, most));
    return std::min(N, ceil_div(even, kRowMultiple) * kRowMultiple);
}

}  // namespace

void CudaBackend::execute(const LinearCrossEntropy& op, Queue queue) {
    const Stream s = begin(queue);
    const DType dtype = op.x.dtype;
    const int64_t N = op.x.shape[0], D = op.x.shape[1], V = op.weight.shape[0];
    if (N == 0) return;
    const int64_t stride = ceil_div<int64_t>(V, kPad) * kPad;
    const int64_t chunk_rows = rows_of_chunk(N, stride);
    float* logits = s.scratch.take<float>(chunk_rows * stride);
    const Matrix weight{op.weight.data, dtype, D};

    for (int64_t begin = 0; begin < N; begin += chunk_rows) {
        const int64_t rows = std::min(chunk_rows, N - begin);
        const Matrix x{op.x.slice(begin * D, rows * D).data, dtype, D};
        multiply(s, {.c = logits,
                     .dtype = DType::f32,
                     .stride = stride,
                     .a = x,
                     .b = {weight.data, dtype, D, true},
                     .m = rows,
                     .n = V,
                     .k = D});
        const Chunk chunk{.logits = logits,
                          .loss = data_of<float>(op.loss) + begin,
                          .target = data_of<int32_t>(op.target) + begin,
                          .words = static_cast<int>(V),
                          .stride = stride,
                          .scale = op.scale};
        if (!op.dx) {
            launch<float, false>(s, chunk, rows);
            continue;
        }
        with_compute_type(dtype, [&]<class T>() { launch<T, true>(s, chunk, rows); });
        const int64_t dstride = stride * int64_t{sizeof(float)} / size_of(dtype);
        multiply(s, {.c = op.dx.slice(begin * D, rows * D).data,
                     .dtype = dtype,
                     .stride = D,
                     .a = {logits, dtype, dstride},
                     .b = weight,
                     .m = rows,
                     .n = D,
                     .k = V});
        multiply(s, {.c = op.dweight.data,
                     .dtype = DType::f32,
                     .stride = D,
                     .a = {logits, dtype, dstride, true},
                     .b = x,
                     .m = V,
                     .n = D,
                     .k = rows,
                     .accumulate = true});
    }
}

}  // namespace fomoe
