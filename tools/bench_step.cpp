// Times the training step of a config on one rank, with random tokens and no files: tokens/s, FLOPs
// per token, MFU against the matmul ceiling of the same threads, time per op, and peak memory next
// to the plan. With several groups in the config it is one rank alone playing the first group.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/log.h"
#include "base/memory_use.h"
#include "base/random.h"
#include "base/timer.h"
#include "config/load.h"
#include "data/tokenizer.h"
#include "model/flops.h"
#include "ops/matmul_ceiling.h"
#include "plan/memory.h"
#include "train/profile.h"
#include "train/step.h"

namespace fomoe {
namespace {

struct Options {
    std::vector<std::string> files, sets;
    int threads = 0;
    int steps = 5;
};

Batch random_batch(const Config& config, Range sequences, int64_t step) {
    Batch batch;
    batch.n_sequences = sequences.size();
    const int64_t T = config.data.seq_len, N = batch.n_sequences * T;
    const uint64_t key = random_key(config.seed, "bench_step");
    auto token = [&](int64_t i) {
        return static_cast<int32_t>(random_bits(key, step * (N + 1) + i) % config.model.vocab_size);
    };
    for (int64_t i = 0; i < N; ++i) {
        batch.tokens.push_back(token(i));
        batch.targets.push_back(token(i + 1));
        batch.positions.push_back(static_cast<int32_t>(i % T));
    }
    if (config.data.document_mask) batch.begin.assign(N, 0);
    batch.valid_tokens = batch.group_valid_tokens = N;
    return batch;
}

std::string mebibytes(int64_t bytes) { return fmt::format("{:.1f} MiB", bytes / 1048576.0); }

void print_memory(const MemoryPlan& plan, int64_t before, bool reset) {
    fmt::print(
        "planned memory: weights {} + gradients {} + moments {} + activations {} + scratch {} = "
        "{}\n",
        mebibytes(plan.weights), mebibytes(plan.gradients), mebibytes(plan.moments),
        mebibytes(plan.activations), mebibytes(plan.scratch), mebibytes(plan.total()));
    const int64_t peak = memory_use().peak_bytes - before;
    fmt::print("measured peak above the start: {}, {:.3f} of the plan{}\n", mebibytes(peak),
               static_cast<double>(peak) / plan.total(),
               reset ? "" : " (the peak could not be reset)");
    fmt::print("expert state in the plan: {}\n", mebibytes(plan.expert_state));
}

void bench(const Options& options) {
    Config config = load_config(options.files, options.sets);
    config.model.vocab_size = vocab_size(config.model);
    config.train.steps = options.steps + 1;
    const int n_groups = static_cast<int>(config.topology.groups.size());
    for (GroupConfig& group : config.topology.groups) group.ranks = group.expert_parallel = 1;

    const int threads = options.threads ? options.threads : omp_get_max_threads();
    const double ceiling = cpu_matmul_ceiling(threads);
    const bool reset = reset_peak_memory();
    const int64_t before = memory_use().resident_bytes;

    const std::unique_ptr<Backend> cpu = make_cpu_backend(threads);
    TraceBackend backend(*cpu);
    const World world(config.topology, 0, n_groups);
    const Placement placement(config.federation, config.topology, config.model.moe.n_experts);
    const std::vector<Parameter> all = all_parameters(config.model, placement);
    const ArenaLayout layout = arena_layout(all, placement, world);
    const FrozenLayout copies = frozen_layout(all, placement, world);
    const bool proxy = config.federation.absent == AbsentPolicy::proxy;
    const FrozenLayout* frozen = proxy ? &copies : nullptr;
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    GroupCommunicators ranks(*alone, world);
    InnerStep step(config, world, placement, layout, backend, ranks, frozen);

    std::vector<double> seconds;
    StepResult result;
    double executed = 0;
    for (int i = 0; i <= options.steps; ++i) {
        const Batch batch = random_batch(config, InnerStep::sequences(config, world), i);
        if (i == 1) backend.reset();  // the first step touches memory for the first time
        const Timer timer;
        result = step.run(i + 1, batch, false);
        if (i == 0) continue;
        seconds.push_back(timer.seconds());
        executed += result.executed_choices / options.steps;
    }
    std::ranges::sort(seconds);
    const double median = seconds[seconds.size() / 2];
    const double tokens = double(config.train.batch) * config.data.seq_len;
    const FlopsPerToken flops = flops_per_token(config.model, config.data.seq_len);
    const double per_token = flops.of(executed / tokens);
    const double rate = per_token * tokens / median / 1e9;

    fmt::print("{} threads, {} sequences of {} in micro-batches of {}, {} steps\n", threads,
               config.train.batch, config.data.seq_len, config.train.micro_batch, options.steps);
    fmt::print("{:.1f}M parameters held\n", layout.size() / 1e6);
    fmt::print(
        "FLOPs per token: 6 * (weights every token meets) + 6 L A Dh (T + 1) = {:.1f}M,\n"
        "  and 6 * (weights of an expert) = {:.1f}M for each of {:.2f} executed choices: {:.1f}M\n",
        flops.always / 1e6, flops.per_choice / 1e6, executed / tokens, per_token / 1e6);
    fmt::print("step {:.1f} ms (median), {:.0f} tokens/s, {:.1f} GFLOP/s\n", 1e3 * median,
               tokens / median, rate);
    fmt::print("matmul ceiling {:.1f} GFLOP/s, MFU {:.1f}%\n", ceiling, 100 * rate / ceiling);
    fmt::print("skipped {:.1f}% of choices, loss {:.4f}\n\n", 100 * result.skipped, result.loss);
    fmt::print("{}\n", profile_table(backend.report(), ceiling, options.steps));
    print_memory(memory_plan(config, world, layout, frozen, threads, 0), before, reset);
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
    app.add_option("--threads", options.threads, "0: all cores");
    app.add_option("--steps", options.steps, "Timed steps")->check(CLI::Range(1, 1000));
    CLI11_PARSE(app, argc, argv);
    init_log(LogLevel::info);
    try {
        bench(options);
    } catch (const Error& error) {
        log(LogLevel::info, error.what());
        return static_cast<int>(error.exit);
    }
    return 0;
}
