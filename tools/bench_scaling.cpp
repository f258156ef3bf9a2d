// Times the training step of a config against the number of its experts, at equal top-k and width,
// and against the length of its sequences, at equal tokens a step; beside what the machine's
// ceilings ask for. One rank, random weights and tokens, as in bench_step.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/log.h"
#include "config/load.h"
#include "data/tokenizer.h"
#include "ops/cpu/cpu_backend.h"
#include "step_rig.h"
#include "train/profile.h"

namespace fomoe {
namespace {

constexpr int kExperts[] = {8, 16, 32, 64, 128};
constexpr int kLengths[] = {256, 512, 1024, 2048, 4096};
constexpr double kManyRows =
    256;                         // of an expert and micro-batch: then weights cost next to nothing
constexpr double kGrowth = 1.1;  // of the step from the fewest experts, with many rows
constexpr double kOverRoofline = 1.25;  // of the step, with fewer

struct Options {
    std::vector<std::string> files, sets;
    int threads = 0;
    int steps = 3, turns = 3;
    std::string only;
    bool profile = false;
};

// A size and what its steps took.
struct Point {
    Config config;
    double seconds = 1e30;        // of the fastest step, as the ceilings are those of fastest calls
    int64_t parameters = 0;       // held
    std::vector<TraceRow> trace;  // the fastest turn of each op

    int micro_batches() const { return config.train.batch / config.train.micro_batch; }
    double rows_per_expert() const {
        const MoeConfig& moe = config.model.moe;
        return double(config.train.micro_batch) * config.data.seq_len * moe.top_k / moe.n_experts;
    }
};

// All sizes in turn, several times, so that a slow minute of the machine meets them all.
void measure(std::vector<Point>& points, Backend& backend, const Options& options) {
    for (int turn = 0; turn < options.turns; ++turn)
        for (Point& point : points) {
            StepRig rig(point.config, backend);
            for (int i = 0; i <= options.steps; ++i) rig.run();
            point.seconds = std::min(point.seconds, rig.fastest_seconds());
            point.parameters = rig.layout().size();
            std::vector<TraceRow> trace = rig.trace();
            for (TraceRow& row : trace) {
                const auto before = std::ranges::find(point.trace, row.name, &TraceRow::name);
                if (before != point.trace.end())
                    row.seconds = std::min(row.seconds, before->seconds);
            }
            point.trace = std::move(trace);
        }
}

void print_profiles(const std::vector<Point>& points, const Ceilings& ceilings,
                    const Options& options) {
    std::fflush(stdout);
    if (!options.profile) return;
    for (const Point& point : points)
        fmt::print("E = {}, T = {}, micro-batches of {}:\n{}\n", point.config.model.moe.n_experts,
                   point.config.data.seq_len, point.config.train.micro_batch,
                   profile_table(point.trace, ceilings, options.steps));
}

const char* verdict(bool kept) { return kept ? "kept" : "not kept"; }

// Of a step.
double flops_of(const Point& point, const Options& options, std::string_view op = "") {
    double flops = 0;
    for (const TraceRow& row : point.trace)
        if (row.name.starts_with(op)) flops += row.flops / options.steps;
    return flops;
}
double seconds_of(const Point& point, const Options& options, std::string_view op) {
    double seconds = 0;
    for (const TraceRow& row : point.trace)
        if (row.name.starts_with(op)) seconds += row.seconds / options.steps;
    return seconds;
}

// What a step must read and write of its parameters: in each micro-batch the weights forward and
// backward, and their gradients, which the first one writes and the others add to; then the
// gradients for their norm; then AdamW reads all and writes all but the gradients.
double parameter_bytes(const Point& point) {
    const bool narrow = point.config.train.dtype == ComputeType::bf16;
    const double weight = narrow ? 2 : 4, micro = point.micro_batches();
    const double gradients = 4 + 8 * (micro - 1), norm = 4, adamw = 16 + 12 + (narrow ? 2 : 0);
    return static_cast<double>(point.parameters) * (2 * weight * micro + gradients + norm + adamw);
}

void print_experts(const std::vector<Point>& points, const Ceilings& ceilings,
                   const Options& options) {
    const TrainConfig& train = points[0].config.train;
    fmt::print("Against E: {} sequences of {} in micro-batches of {}\n", train.batch,
               points[0].config.data.seq_len, train.micro_batch);
    fmt::print("{:>5} {:>11} {:>6} {:>9} {:>8} {:>9} {:>9} {:>9} {:>7} {:>8}\n", "E", "parameters",
               "rows", "ms", "x first", "FLOPs ms", "bytes ms", "roofline", "x", "x growth");
    const auto flops_ms = [&](const Point& p) {
        return 1e-6 * flops_of(p, options) / ceilings.gflops;
    };
    const auto bytes_ms = [&](const Point& p) {
        return 1e-6 * parameter_bytes(p) / ceilings.gigabytes;
    };
    const auto roofline = [&](const Point& p) { return flops_ms(p) + bytes_ms(p); };
    const Point& first = points[0];
    for (const Point& p : points) {
        const double ms = 1e3 * p.seconds, grown = p.seconds / first.seconds;
        const double over = ms / roofline(p);
        const double over_growth = ms / (1e3 * first.seconds + roofline(p) - roofline(first));
        const bool many = p.rows_per_expert() >= kManyRows;
        const std::string says =
            many ? fmt::format("growth within {}: {}", kGrowth, verdict(grown <= kGrowth))
                 : fmt::format("within {} of the roofline: {}; of its growth: {}", kOverRoofline,
                               verdict(over <= kOverRoofline),
                               verdict(over_growth <= kOverRoofline));
        fmt::print(
            "{:>5} {:>10.1f}M {:>6.0f} {:>9.1f} {:>8.3f} {:>9.1f} {:>9.1f} {:>9.1f} {:>7.2f} "
            "{:>8.2f}  {}\n",
            p.config.model.moe.n_experts, double(p.parameters) / 1e6, p.rows_per_expert(), ms,
            grown, flops_ms(p), bytes_ms(p), roofline(p), over, over_growth, says);
    }
    fmt::print("\n");
    print_profiles(points, ceilings, options);
}

void against_experts(const Config& config, int micro_batch, Backend& backend,
                     const Ceilings& ceilings, const Options& options) {
    std::vector<Point> points;
    for (const int E : kExperts) {
        Point& point = points.emplace_back(Point{.config = config, .trace = {}});
        point.config.model.moe.n_experts = E;
        point.config.train.micro_batch = micro_batch;
        point.config.train.batch = std::max(config.train.batch, micro_batch);
    }
    measure(points, backend, options);
    print_experts(points, ceilings, options);
}

void against_length(const Config& config, Backend& backend, const Ceilings& ceilings,
                    const Options& options) {
    const int tokens = config.train.batch * kLengths[0];
    std::vector<Point> points;
    for (const int T : kLengths) {
        if (tokens % T != 0) continue;
        Point& point = points.emplace_back(Point{.config = config, .trace = {}});
        point.config.data.seq_len = T;
        point.config.train.batch = point.config.train.micro_batch = tokens / T;
    }
    measure(points, backend, options);

    fmt::print("Against T: {} tokens a step, in one micro-batch\n", tokens);
    fmt::print("{:>5} {:>9} {:>8} {:>13} {:>13} {:>9} {:>9} {:>10}\n", "T", "ms", "x first",
               "attention ms", "GFLOP of it", "GFLOP/s", "extra ms", "allowed ms");
    const Point& first = points[0];
    const auto flops = [&](const Point& p) { return flops_of(p, options, "attention"); };
    const auto seconds = [&](const Point& p) { return seconds_of(p, options, "attention"); };
    const double rate = flops(first) / seconds(first);
    for (const Point& p : points) {
        const double extra = p.seconds - first.seconds;
        const double allowed = (flops(p) - flops(first)) / rate;
        fmt::print("{:>5} {:>9.1f} {:>8.3f} {:>13.1f} {:>13.2f} {:>9.1f} {:>9.1f} {:>10.1f}{}\n",
                   p.config.data.seq_len, 1e3 * p.seconds, p.seconds / first.seconds,
                   1e3 * seconds(p), 1e-9 * flops(p), 1e-9 * flops(p) / seconds(p), 1e3 * extra,
                   1e3 * allowed,
                   &p == &first ? "" : fmt::format("  {}", verdict(extra <= allowed)));
    }
    fmt::print(
        "extra: over T = {}; allowed: the extra FLOPs of attention, forward and backward, "
        "at the rate that it reaches there\n\n",
        kLengths[0]);
    print_profiles(points, ceilings, options);
}

void bench(const Options& options) {
    Config config = load_config(options.files, options.sets);
    config.model.vocab_size = vocab_size(config.model);
    config.train.steps = options.steps + 1;
    const int threads = options.threads ? options.threads : omp_get_max_threads();
    CpuBackend backend(threads);
    const Ceilings ceilings = measure_ceilings(backend, dtype_of(config.train.dtype), threads);
    fmt::print("{}, {} threads, {}; fastest of {} steps\n", config.name, threads,
               name_of(dtype_of(config.train.dtype)), options.turns * options.steps);
    fmt::print("a matmul reaches {:.1f} GFLOP/s, a copy {:.1f} GB/s\n\n", ceilings.gflops,
               ceilings.gigabytes);
    const auto asked = [&](std::string_view part) {
        return options.only.empty() || options.only == part;
    };
    // As many sequences as give each of the most experts many rows.
    const double tokens = kManyRows * std::ranges::max(kExperts) / config.model.moe.top_k;
    const int many = static_cast<int>(std::ceil(tokens / config.data.seq_len));
    if (asked("many")) against_experts(config, many, backend, ceilings, options);
    if (asked("few")) against_experts(config, config.train.micro_batch, backend, ceilings, options);
    if (asked("length")) against_length(config, backend, ceilings, options);
}

}  // namespace
}  // namespace fomoe

int main(int argc, char** argv) {
    using namespace fomoe;
    CLI::App app(
        "Times the training step of a config against its number of experts and sequence length.");
    Options options;
    app.add_option("config", options.files, "Config files")->required();
    app.add_option("--set", options.sets, "Override a key: --set train.dtype=bf16")
        ->expected(1)
        ->take_all();
    app.add_option("--threads", options.threads, "0: all cores");
    app.add_option("--steps", options.steps, "Timed steps of a turn")->check(CLI::Range(1, 1000));
    app.add_option("--turns", options.turns, "Times that each size is measured")
        ->check(CLI::Range(1, 1000));
    app.add_option("--only", options.only,
                   "many or few: rows for each expert; length: of sequences")
        ->check(CLI::IsMember({"many", "few", "length"}));
    app.add_flag("--profile", options.profile, "Print the time of each op for each size");
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
