#include "plan/time.h"

#include <algorithm>

#include "base/error.h"
#include "model/activations.h"
#include "model/flops.h"

namespace fomoe {
namespace {

constexpr double kGpusOfNode = 8;
constexpr double kAdapter = 50e9;  // bytes/s: 400 Gbit/s

// Bytes that AdamW moves for a parameter: weight, m and v read and written, the gradient read.
constexpr double kAdamWBytes = 28;
// A gradient is read and written in every micro-batch, but an expert's only written in the first of
// a step; the others are cleared before.
constexpr double kGradientBytes = 8, kClearBytes = 4, kUnreadBytes = 4;
// An activation is written once and read by the next op and by the backward pass.
constexpr double kActivationPasses = 3;
constexpr double kWeightPasses = 2;  // forward, backward

constexpr int64_t kMiB = int64_t{1} << 20;
// What the CUDA context, cuBLAS and NCCL take.
constexpr int64_t kReserved = 2048 * kMiB;

}  // namespace

DeviceRates device_rates(const std::string& name, int cores, int ranks_on_host) {
    // Memory as nvidia-smi says it.
    const std::vector<DeviceRates> gpus{
        {"a100", 312e12, 1.0, 19.5e12, 2.04e12, 300e9, 81920 * kMiB - kReserved},
        {"h100", 989e12, 0.62, 67e12, 3.35e12, 450e9, 81559 * kMiB - kReserved},
        {"h200", 989e12, 0.62, 67e12, 4.8e12, 450e9, 143771 * kMiB - kReserved},
    };
    for (const DeviceRates& gpu : gpus)
        if (gpu.name == name) return gpu;
    if (name != "cpu")
        throw Error(Exit::usage, concat("--device ", name, ": give h100, h200, a100 or cpu"));
    // A core with AVX-512 and its part of the memory's rate.
    const double share = double(cores) / ranks_on_host;
    const double flops = 270e9 * share;
    return {.name = "cpu", .tensor = flops, .f32 = flops, .memory = 20e9 * share, .link = 4e9};
}

Bandwidth assumed_bandwidth(const DeviceRates& device, int ranks) {
    const bool one_node = device.name == "cpu" || ranks <= kGpusOfNode;
    return {.intra = one_node ? device.link : kAdapter, .inter = 1.25e9};
}

double peak_flops(const TrainConfig& train, const DeviceRates& device) {
    if (train.dtype == ComputeType::bf16) return device.tensor;
    // TF32 tensor cores reach half of what they do in bf16.
    return train.tf32 && device.name != "cpu" ? device.tensor / 2 : device.f32;
}

StepTime step_time(const Config& config, const World& world, const ArenaLayout& layout,
                   const FrozenLayout* frozen, double choices, int64_t activation_bytes,
                   const StepTraffic& traffic, const DeviceRates& device, double intra) {
    const ModelConfig& model = config.model;
    const TrainConfig& train = config.train;
    const double P = world.own().ranks, replicas = P / world.own().expert_parallel;
    const double N = train.batch / P * config.data.seq_len;  // tokens of a step, on this rank
    const double passes = train.batch / P / train.micro_batch;
    const double C = size_of(dtype_of(train.dtype));
    const double fast = peak_flops(train, device);
    const double mma = train.dtype == ComputeType::bf16 ? fast * device.mma : fast;

    const FlopsPerToken flops = flops_per_token(model, config.data.seq_len);
    const double attention =
        6.0 * model.n_layers * model.n_heads * model.head_size() * (config.data.seq_len + 1.0);
    const auto pass = [&](double weights, double once) {  // once: bytes of a weight in a step
        return weights * (passes * (kWeightPasses * C + kGradientBytes) + once) / device.memory;
    };
    const double dense = layout.dense.size, trained = layout.expert.size;
    const double copies = frozen ? frozen->size : 0;
    const double matmuls =
        std::max(N * (flops.always - attention) / fast, pass(dense, kClearBytes)) +
        N * attention / mma;
    const double experts =
        std::max(N * flops.per_choice * choices / mma,
                 pass(trained, -kUnreadBytes) +
                     passes * copies * kWeightPasses * size_of(DType::bf16) / device.memory);
    const double activations = passes * kActivationPasses * activation_bytes / device.memory;
    const double update = (dense / P + trained / replicas) * kAdamWBytes / device.memory;
    return {.compute = matmuls + experts + activations + update,
            .inside = static_cast<double>(traffic.total()) / intra};
}

}  // namespace fomoe
