// Times the training step of a config on one rank, with random tokens and no files: tokens/s, FLOPs
// per token, MFU against the matmul ceiling of the same threads, time per op, and peak memory next
// to the plan. With several groups in the config it is one rank alone playing the first group.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/log.h"
#include "base/memory_use.h"
#include "bench_backend.h"
#include "ceilings.h"
#include "config/load.h"
#include "data/tokenizer.h"
#include "model/flops.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/matmul_ceiling.h"
#include "plan/memory.h"
#include "step_rig.h"
#include "train/profile.h"

namespace fomoe {
namespace {

struct Options {
    std::vector<std::string> files, sets;
    std::string backend = "cpu";
    int threads = 0;
    int steps = 5;
    bool skip = false;
};

std::string mebibytes(int64_t bytes) { return fmt::format("{:.1f} MiB", bytes / 1048576.0); }

void print_memory(const MemoryPlan& plan, int64_t before, bool reset) {
    fmt::print(
        "planned memory: weights {} + gradients {} + moments {} + activations {} + scratch {} + "
        "page ends {} = {}\n",
        mebibytes(plan.weights + plan.rounded), mebibytes(plan.gradients), mebibytes(plan.moments),
        mebibytes(plan.activations), mebibytes(plan.scratch), mebibytes(plan.pages),
        mebibytes(plan.total()));
    const int64_t peak = memory_use().peak_bytes - before;
    fmt::print("measured peak above the start: {}, {:.3f} of the plan{}\n", mebibytes(peak),
               static_cast<double>(peak) / plan.total(),
               reset ? "" : " (the peak could not be reset)");
    fmt::print("expert state in the plan: {}\n", mebibytes(plan.expert_state));
}

Config resolved(const Options& options) {
    Config config = load_config(options.files, options.sets);
    config.model.vocab_size = vocab_size(config.model);
    config.train.steps = options.steps + 1;
    return config;
}

void bench(const Options& options) {
    const Config config = resolved(options);
    const int threads = options.threads ? options.threads : omp_get_max_threads();
    const std::unique_ptr<Backend> backend = bench_backend(options.backend, threads);
    const bool on_cpu = options.backend == "cpu";
    const DType dtype = dtype_of(config.train.dtype);
    const Ceilings ceilings = on_cpu ? measure_ceilings(*backend, dtype, threads)
                                     : measured_ceilings(*backend, dtype, 8192);
    const bool reset = reset_peak_memory();
    const int64_t before = memory_use().resident_bytes;

    StepRig rig(config, *backend);
    for (int i = 0; i <= options.steps; ++i) rig.run();

    const double tokens = rig.tokens(), median = rig.median_seconds();
    const double choices = rig.executed_choices() / tokens;
    const FlopsPerToken flops = flops_per_token(config.model, config.data.seq_len);
    const double per_token = flops.of(choices);
    const double rate = per_token * tokens / median / 1e9;

    fmt::print("{}, {}, {} sequences of {} in micro-batches of {}, {} steps\n",
               on_cpu ? fmt::format("{} threads", threads) : options.backend, name_of(dtype),
               config.train.batch, config.data.seq_len, config.train.micro_batch, options.steps);
    fmt::print("{:.1f}M parameters held\n", rig.layout().size() / 1e6);
    fmt::print(
        "FLOPs per token: 6 * (weights every token meets) + 6 L A Dh (T + 1) = {:.1f}M,\n"
        "  and 6 * (weights of an expert) = {:.1f}M for each of {:.2f} executed choices: {:.1f}M\n",
        flops.always / 1e6, flops.per_choice / 1e6, choices, per_token / 1e6);
    fmt::print("step {:.1f} ms (median), {:.0f} tokens/s, {:.1f} GFLOP/s\n", 1e3 * median,
               tokens / median, rate);
    fmt::print("a matmul reaches {:.1f} GFLOP/s, a copy {:.1f} GB/s; MFU {:.1f}%\n",
               ceilings.gflops, ceilings.gigabytes, 100 * rate / ceilings.gflops);
    fmt::print("skipped {:.1f}% of choices, loss {:.4f}\n\n", 100 * rig.last().skipped,
               rig.last().loss);
    fmt::print("{}\n", profile_table(rig.trace(), ceilings, options.steps));
    if (!on_cpu) return;
    print_memory(memory_plan(rig.config(), rig.world(), rig.layout(), rig.frozen(), threads, 0),
                 before, reset);
}

// The experts of each token, the same number for every expert, whatever the router says.
class UniformRouting final : public CpuBackend {
public:
    using CpuBackend::CpuBackend;

protected:
    using CpuBackend::execute;
    void execute(const Router& op, Queue queue) override {
        CpuBackend::execute(op, queue);
        const int64_t N = op.expert.shape[0], K = op.expert.shape[1], E = op.resident.shape[0];
        for (int64_t i = 0; i < N * K; ++i) {
            const int64_t expert = (i / K + i % K * (E / K)) % E;
            op.expert.as<int32_t>()[i] = static_cast<int32_t>(expert);
            op.slot.as<int32_t>()[i] = op.resident.as<int32_t>()[expert];
        }
        const int64_t B = op.count.shape[0];
        std::fill_n(op.count.as<float>(), B * E, 0.0f);
        for (int64_t i = 0; i < N * K; ++i)
            ++op.count.as<float>()[i / (N * K / B) * E + op.expert.as<int32_t>()[i]];
    }
};

double seconds_of(const StepRig& rig, const std::vector<std::string_view>& ops) {
    double seconds = 0;
    for (const TraceRow& row : rig.trace())
        if (std::ranges::count(ops, row.name)) seconds += row.seconds / rig.timed_steps();
    return seconds;
}

// What skipping is worth: the time of a step when a group holds all, a half and a quarter of the
// experts, next to what the profile of the first predicts,
//   seconds = a + b * (executed choices) + c * (parameters held).
void bench_skip(const Options& options) {
    Config config = resolved(options);
    const GroupConfig alone{.name = "a", .data = {}};
    config.topology.groups.assign(4, alone);
    config.federation.placement = PlacementKind::blocks;
    UniformRouting backend(options.threads ? options.threads : omp_get_max_threads());
    std::vector<std::unique_ptr<StepRig>> rigs;
    for (int replication : {4, 2, 1}) {
        config.federation.replication = replication;
        rigs.push_back(std::make_unique<StepRig>(config, backend));
    }
    for (int i = 0; i <= options.steps; ++i)
        for (auto& rig : rigs) rig->run();

    const StepRig& full = *rigs[0];
    const double experts = seconds_of(full, {"experts_forward", "experts_backward"});
    const double sweeps = seconds_of(full, {"adamw", "sum_squares"});
    const double b = experts / full.executed_choices();
    const double c = sweeps / static_cast<double>(full.layout().size());
    const double a = full.median_seconds() - b * full.executed_choices() -
                     c * static_cast<double>(full.layout().size());

    fmt::print("{} threads, {} sequences of {}, {} steps of each, every expert chosen equally\n",
               backend.threads(), config.train.batch, config.data.seq_len, options.steps);
    fmt::print("experts take {:.1f}% of the step with all of them\n",
               100 * experts / full.median_seconds());
    fmt::print("seconds = {:.4f} + {:.3e} * choices + {:.3e} * parameters\n\n", a, b, c);
    fmt::print("{:>8} {:>10} {:>12} {:>12} {:>14} {:>7} {:>9}\n", "resident", "choices",
               "parameters", "measured ms", "predicted ms", "ratio", "speed-up");
    for (const auto& rig : rigs) {
        const double held = static_cast<double>(rig->layout().size());
        const double predicted = a + b * rig->executed_choices() + c * held;
        fmt::print("{:>8} {:>10.0f} {:>11.1f}M {:>12.1f} {:>14.1f} {:>7.3f} {:>8.2f}x\n",
                   fmt::format("{}/4", rig->config().federation.replication),
                   rig->executed_choices(), held / 1e6, 1e3 * rig->median_seconds(),
                   1e3 * predicted, rig->median_seconds() / predicted,
                   full.median_seconds() / rig->median_seconds());
    }
    fmt::print("\narXiv 2606.19025 reports up to 1.4x from skipping.\n");
}

}  // namespace
}  // namespace fomoe

int main(int argc, char** argv) {
    using namespace fomoe;
    CLI::App app("Times the training step of a config on one rank.");
    Options options;
    app.add_option("config", options.files, "Config files")->required();
    app.add_option("--set", options.sets, "Override a key: --set train.batch=4")
        ->expected(1)
        ->take_all();
    app.add_option("--backend", options.backend, "cpu or cuda")
        ->check(CLI::IsMember({"cpu", "cuda"}));
    app.add_option("--threads", options.threads, "0: all cores");
    app.add_option("--steps", options.steps, "Timed steps")->check(CLI::Range(1, 1000));
    app.add_flag("--skip", options.skip,
                 "Compare a group that holds all, a half and a quarter of the experts");
    CLI11_PARSE(app, argc, argv);
    init_log(LogLevel::info);
    try {
        if (options.skip)
            bench_skip(options);
        else
            bench(options);
    } catch (const Error& error) {
        log(LogLevel::info, error.what());
        return static_cast<int>(error.exit);
    }
    return 0;
}
