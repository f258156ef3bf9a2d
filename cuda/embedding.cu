// Embedding: copies of rows, and the sums of their gradients in the order of the tokens.
#include "cuda/rows.cuh"
#include "ops/embedding.h"

namespace fomoe {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

template <class T>
struct Lookup {
    T* y;                  // (N, D)
    const int32_t* token;  // (N)
    const T* weight;       // (V, D)
    int64_t N, D;
};

template <class T, int width>
__global__ void __launch_bounds__(kThreads) embed(const Lookup<T> a) {
    using Piece = Vec<T, width>;
    const int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
    if (n >= a.N) return;
    const T* from = a.weight + a.token[n] * a.D;
    T* to = a.y + n * a.D;
#pragma unroll 4
    for (int64_t d = threadIdx.x % kWarp * width; d < a.D; d += kWarp * width)
        *reinterpret_cast<Piece*>(to + d) = *reinterpret_cast<const Piece*>(from + d);
}

// Tokens up to which a warp sorts what a word has; above, a block looks through all tokens.
constexpr int kFew = 128;
constexpr int kLookThreads = 1024;

// The tokens of each word that occurs, ascending. Where the words' ranges lie depends on the run,
// what they hold does not.
struct Occurrences {
    const int32_t* token;  // (N)
    int32_t* count;        // (V), of a word; 0 at first
    int32_t* begin;        // (V), of a word's range; only of words that occur
    int32_t* arrival;      // (N), number among its word's tokens in the order of the run
    int32_t* unsorted;     // (N)
    int32_t* sorted;       // (N)
    int32_t* often;        // (N / kFew), words with more than kFew tokens
    int32_t* cursor;       // (2), tokens in ranges, words in `often`; 0 at first
    int32_t N;
};

__device__ __forceinline__ int32_t thread_in_grid() {
    return static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
}

__global__ void __launch_bounds__(kThreads) count_words(const Occurrences a) {
    const int32_t n = thread_in_grid();
    if (n < a.N) a.arrival[n] = atomicAdd(&a.count[a.token[n]], 1);
}

__global__ void __launch_bounds__(kThreads) place_words(const Occurrences a) {
    const int32_t n = thread_in_grid();
    if (n >= a.N || a.arrival[n] != 0) return;
    const int32_t word = a.token[n], count = a.count[word];
    a.begin[word] = atomicAdd(&a.cursor[0], count);
    if (count > kFew) a.often[atomicAdd(&a.cursor[1], 1)] = word;
}

__global__ void __launch_bounds__(kThreads) place_tokens(const Occurrences a) {
    const int32_t n = thread_in_grid();
    if (n < a.N) a.unsorted[a.begin[a.token[n]] + a.arrival[n]] = n;
}

// A warp a word, that of the word's first arrival.
__global__ void __launch_bounds__(kThreads) sort_few(const Occurrences a) {
    const int32_t n = thread_in_grid() / kWarp;
    if (n >= a.N || a.arrival[n] != 0) return;
    const int32_t word = a.token[n], count = a.count[word], begin = a.begin[word];
    if (count > kFew) return;
    for (int32_t i = threadIdx.x % kWarp; i < count; i += kWarp) {
        const int32_t own = a.unsorted[begin + i];
        int32_t rank = 0;
        for (int32_t j = 0; j < count; ++j) rank += a.unsorted[begin + j] < own;
        a.sorted[begin + rank] = own;
    }
}

// A block a word.
__global__ void __launch_bounds__(kLookThreads) sort_often(const Occurrences a) {
    constexpr int kLookWarps = kLookThreads / kWarp;
    __shared__ int32_t found[2][kLookWarps];
    if (static_cast<int32_t>(blockIdx.x) >= a.cursor[1]) return;
    const int32_t word = a.often[blockIdx.x];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int32_t next = a.begin[word];
    int half = 0;
    for (int32_t begin = 0; begin < a.N; begin += kLookThreads, half = 1 - half) {
        const int32_t n = begin + static_cast<int32_t>(threadIdx.x);
        const bool here = n < a.N && a.token[n] == word;
        const unsigned lanes = __ballot_sync(kAllLanes, here);
        if (lane == 0) found[half][warp] = __popc(lanes);
        __syncthreads();
        const int32_t of_lane = found[half][lane];
        const int32_t before = warp_sum(lane < warp ? of_lane : 0);
        if (here) a.sorted[next + before + __popc(lanes & ((1u << lane) - 1))] = n;
        next += warp_sum(of_lane);
    }
}

template <class T>
struct Gradient {
    float* dweight;  // (V, D)
    const T* dy;     // (N, D)
    int64_t D;
    int64_t chunks;  // of a row
};

// Rows on their way at once.
constexpr int kRows = 16;

// A warp takes a chunk of a word's row. The bound lets all its rows stay in registers.
template <class T, int width>
__global__ void __launch_bounds__(kThreads, 3)
    sum_rows(const Gradient<T> a, const Occurrences words) {
    using Piece = Vec<T, width>;
    const int64_t warp = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp;
    const int64_t n = warp / a.chunks;
    if (n >= words.N || words.arrival[n] != 0) return;
    const int64_t d = ((warp - n * a.chunks) * kWarp + threadIdx.x % kWarp) * width;
    if (d >= a.D) return;
    const int32_t word = words.token[n], count = words.count[word];
    const int32_t* tokens = words.sorted + words.begin[word];
    const T* dy = a.dy + d;
    float* to = a.dweight + word * a.D + d;
    float sum[width];
    load(sum, to);
    int32_t i = 0;
    for (; i + kRows <= count; i += kRows) {
        Piece rows[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            rows[r] = *reinterpret_cast<const Piece*>(dy + tokens[i + r] * a.D);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int j = 0; j < width; ++j) sum[j] += to_float(rows[r].at[j]);
    }
    for (; i < count; ++i) {
        float row[width];
        load(row, dy + tokens[i] * a.D);
#pragma unroll
        for (int j = 0; j < width; ++j) sum[j] += row[j];
    }
    store(to, sum);
}

}  // namespace

void CudaBackend::execute(const Embedding& op, Queue queue) {
    const Stream s = begin(queue);
    if (op.y.count() == 0) return;
    with_compute_type(op.y.dtype, [&]<class T>() {
        const Lookup<T> a{.y = data_of<T>(op.y),
                          .token = data_of<int32_t>(op.token),
                          .weight = data_of<T>(op.weight),
                          .N = op.y.shape[0],
                          .D = op.y.shape[1]};
        with_width<T>(fits_wide<T>(a.D, {a.y, a.weight}), [&]<int width>() {
            embed<T, width><<<ceil_div<int64_t>(a.N, kWarps), kThreads, 0, s.stream>>>(a);
        });
    });
    check_launch("embed");
}

void CudaBackend::execute(const EmbeddingBackward& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t N = op.dy.shape[0], D = op.dy.shape[1], V = op.dweight.shape[0];
    if (N == 0 || D == 0) return;
    FOMOE_CHECK(N * kWarp <= INT32_MAX, op.name, ": ", N, " tokens");
    int32_t* zeros = s.scratch.take<int32_t>(2 + V);
    const Occurrences words{.token = data_of<int32_t>(op.token),
                            .count = zeros + 2,
                            .begin = s.scratch.take<int32_t>(V),
                            .arrival = s.scratch.take<int32_t>(N),
                            .unsorted = s.scratch.take<int32_t>(N),
                            .sorted = s.scratch.take<int32_t>(N),
                            .often = s.scratch.take<int32_t>(N / kFew),
                            .cursor = zeros,
                            .N = static_cast<int32_t>(N)};
    check_cuda(cudaMemsetAsync(zeros, 0, (2 + V) * sizeof(int32_t), s.stream), "cudaMemsetAsync");
    const int64_t blocks = ceil_div<int64_t>(N, kThreads);
    count_words<<<blocks, kThreads, 0, s.stream>>>(words);
    place_words<<<blocks, kThreads, 0, s.stream>>>(words);
    place_tokens<<<blocks, kThreads, 0, s.stream>>>(words);
    sort_few<<<ceil_div<int64_t>(N, kWarps), kThreads, 0, s.stream>>>(words);
    if (N > kFew) sort_often<<<N / kFew, kLookThreads, 0, s.stream>>>(words);
    check_launch("sort_often");
    with_compute_type(op.dy.dtype, [&]<class T>() {
        Gradient<T> a{.dweight = data_of<float>(op.dweight), .dy = data_of<T>(op.dy), .D = D};
        const auto launch = [&]<int width>() {
            a.chunks = ceil_div<int64_t>(D, kWarp * width);
            sum_rows<T, width>
                <<<ceil_div<int64_t>(N * a.chunks, kWarps), kThreads, 0, s.stream>>>(a, words);
        };
        // Four columns a lane: narrow chunks, so that many warps share a word with many tokens.
        if (fits_wide<float>(D, {a.dweight, a.dy}))
            launch.template operator()<4>();
        else
            launch.template operator()<1>();
    });
    check_launch("sum_rows");
}

}  // namespace fomoe
