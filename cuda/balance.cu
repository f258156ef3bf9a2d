// The balancing loss: a block a sequence, then the sums over sequences.
#include "cuda/device.cuh"

namespace fomoe {
namespace {

constexpr int kThreads = 128;

struct BalanceOf {
    float* dmass;           // (B, E)
    float* load;            // (E)
    double* loss;           // (3)
    double* of_sequence;    // (B), the loss of each
    const float* count;     // (B, E)
    const float* mass;      // (B, E)
    const float* z;         // (B)
    const float* affinity;  // (B)
    const float* fraction;  // (E) or null
    int64_t B, E;
    int experts;
    float weight;
};

__global__ void __launch_bounds__(kThreads) balance_sequence(const BalanceOf a) {
    const int64_t row = blockIdx.x * a.E;
    double choices = 0;
    if (!a.fraction) {
        for (int64_t e = threadIdx.x; e < a.E; e += kThreads) choices += a.count[row + e];
        choices = block_sum<kThreads>(choices);
    }
    double loss = 0;
    for (int64_t e = threadIdx.x; e < a.E; e += kThreads) {
        double f = 0;
        if (a.fraction)
            f = a.fraction[e];
        else if (choices > 0)
            f = a.count[row + e] / choices;
        loss += a.experts * f * a.mass[row + e];
        a.dmass[row + e] = static_cast<float>(double{a.weight} * a.experts * f);
    }
    loss = block_sum<kThreads>(loss);
    if (threadIdx.x == 0) a.of_sequence[blockIdx.x] = loss;
}

// The load by experts; the first block adds the losses too.
__global__ void __launch_bounds__(kThreads) sum_sequences(const BalanceOf a) {
    const int64_t e = int64_t{blockIdx.x} * kThreads + threadIdx.x;
    if (e < a.E) {
        float load = a.load[e];
        for (int64_t b = 0; b < a.B; ++b) load += a.count[b * a.E + e];
        a.load[e] = load;
    }
    if (blockIdx.x > 0) return;
    double loss = 0, z = 0, affinity = 0;
    for (int64_t b = threadIdx.x; b < a.B; b += kThreads) {
        loss += a.of_sequence[b];
        z += a.z[b];
        affinity += a.affinity[b];
    }
    loss = block_sum<kThreads>(loss);
    z = block_sum<kThreads>(z);
    affinity = block_sum<kThreads>(affinity);
    if (threadIdx.x > 0) return;
    a.loss[0] += loss;
    a.loss[1] += z;
    a.loss[2] += affinity;
}

}  // namespace

void CudaBackend::execute(const Balance& op, Queue queue) {
    const Stream s = begin(queue);
    const int64_t B = op.count.shape[0], E = op.count.shape[1];
    if (B == 0) return;
    const BalanceOf a{.dmass = data_of<float>(op.dmass),
                      .load = data_of<float>(op.load),
                      .loss = data_of<double>(op.loss),
                      .of_sequence = s.scratch.take<double>(B),
                      .count = data_of<float>(op.count),
                      .mass = data_of<float>(op.mass),
                      .z = data_of<float>(op.z),
                      .affinity = data_of<float>(op.affinity),
                      .fraction = data_of<float>(op.fraction),
                      .B = B,
                      .E = E,
                      .experts = op.experts,
                      .weight = op.weight};
    balance_sequence<<<B, kThreads, 0, s.stream>>>(a);
    check_launch("balance_sequence");
    sum_sequences<<<ceil_div<int64_t>(E, kThreads), kThreads, 0, s.stream>>>(a);
    check_launch("sum_sequences");
}

}  // namespace fomoe
