// fomoe-train: trains a federation from one config file. Started alone it starts its ranks itself.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <optional>

#include "apps/plan_command.h"
#include "apps/program.h"
#include "base/log.h"
#include "config/load.h"
#include "data/tokenizer.h"
#include "device/device.h"
#include "device/launch.h"
#include "ops/check_backend.h"
#include "ops/matmul_ceiling.h"
#include "ops/trace_backend.h"
#include "train/profile.h"
#include "train/run.h"
#include "train/signals.h"

namespace fomoe {
namespace {

// Tokens of each file that are looked at before a run starts: a fraction of a second.
constexpr int64_t kScanned = 1 << 27;

struct Options {
    std::vector<std::string> files, sets;
    std::string resume = "auto";
    std::string backend = "auto";
    std::optional<int64_t> calibrate;
    bool check = false;
    bool check_backend = false;
    bool profile = false;
    std::string log_level = "info";
    bool verbose = false;
    PlanCommand plan;
};

void add_options(CLI::App& app, Options& options) {
    app.add_option("config", options.files, "Config files; later ones override earlier ones")
        ->required();
    // One value an option: what follows is a config file again.
    app.add_option("--set", options.sets, "Override a key: --set model.moe.top_k=4")
        ->expected(1)
        ->take_all();
    app.add_option("--resume", options.resume,
                   "auto: go on from the run's newest checkpoint; never: want a new run; or the "
                   "path of a checkpoint")
        ->capture_default_str();
    app.add_option("--calibrate", options.calibrate,
                   "Calibrate the union for so many steps when the run is done: "
                   "calibration.steps")
        ->check(CLI::NonNegativeNumber);
    app.add_option(
           "--backend", options.backend,
           "cpu; cuda: a GPU for every rank, or an error; auto: GPUs, or the CPU where there "
           "are none")
        ->capture_default_str();
    app.add_flag("--check", options.check, "Check config, data and run directory; start nothing");
    app.add_flag("--check-backend", options.check_backend,
                 "Run every op also on one CPU thread and compare");
    app.add_flag("--profile", options.profile, "Print the time of each op at the end");
    app.add_option("--log-level", options.log_level,
                   "What stderr shows: debug, info, warning or error, and what is worse")
        ->capture_default_str()
        ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
    app.add_flag("-v,--verbose", options.verbose,
                 "Say more, as --log-level debug: which GPU each rank has");
    add_plan_options(app, options.plan);
}

LoadedConfig loaded_config(const Options& options) {
    std::vector<std::string> sets = options.sets;
    if (options.calibrate) sets.push_back(concat("calibration.steps=", *options.calibrate));
    LoadedConfig loaded = load_with_origins(options.files, sets);
    loaded.config.model.vocab_size = vocab_size(loaded.config.model);
    return loaded;
}

// Lines in the form of a compiler's.
void say(const std::vector<std::string>& warnings) {
    for (const std::string& line : warnings) log_info(line);
}

int train_rank(const LoadedConfig& loaded, const Options& options, const RunPlan& plan,
               Communicator& job) {
    const Config& config = loaded.config;
    const StopSignals signals;
    const Threads threads = threads_per_rank(job);
    const World world(config.topology, job.rank(), job.size());
    const Device device = make_device({.choice = backend_choice(options.backend),
                                       .tf32 = config.train.tf32,
                                       .graphs = config.train.cuda_graphs,
                                       .collective_timeout = config.train.collective_timeout,
                                       .groups = world.groups},
                                      threads, job);
    std::unique_ptr<Backend> reference;
    std::unique_ptr<CheckBackend> check;
    std::unique_ptr<TraceBackend> trace;
    Backend* backend = device.backend.get();
    if (options.check_backend) {
        reference = make_cpu_backend(1);
        CheckBackend::Bounds bounds;
        if (config.train.tf32) bounds.f32 = CheckBackend::kTf32Bound;
        check = std::make_unique<CheckBackend>(*backend, *reference, bounds);
        backend = check.get();
    }
    if (options.profile) {
        trace = std::make_unique<TraceBackend>(*backend);
        backend = trace.get();
    }
    if (job.rank() == 0) {
        say(loaded.warnings);
        if (backend->name() == "cpu") say(gpu_only_warnings(loaded));
        log_info(device.description);
        for (const std::string& line : device.warnings) log_warning(line);
        for (const std::string& line : device.table) log(LogLevel::debug, line);
    }
    const auto [exit, steps_done] =
        train_run(config, plan, job, {*backend, device.connect, threads},
                  [&] { return signals.requested(); });
    if (check && job.rank() == 0)
        log_info(fmt::format("backend check: {} ops compared, largest NMSE {:.1e} in {}",
                             check->ops_compared(), check->worst_nmse(), check->worst_op()));
    if (trace && job.rank() == 0)
        fmt::print("{}", profile_table(trace->report(),
                                       matmul_ceiling(*device.backend, dtype_of(config.train.dtype),
                                                      threads.count),
                                       steps_done));
    return static_cast<int>(exit);
}

// --check, when the config and the start of the data are already known to be right.
int checked(const LoadedConfig& loaded, const Options& options) {
    say(loaded.warnings);
    check_tokens(loaded.config, INT64_MAX);
    for (const std::string& file : options.files) fmt::print("{}: ok\n", file);
    return 0;
}

int run(const Options& options, const std::vector<std::string>& arguments) {
    if (options.plan.asked())
        return run_alone([&] {
            const LoadedConfig loaded = loaded_config(options);
            say(loaded.warnings);
            print_plan(loaded.config, options.plan);
            return 0;
        });
    if (started_by_launcher()) {
        LoadedConfig loaded;
        RunPlan plan;
        return run_ranks_of_job(
            [&](Communicator& job) {
                loaded = loaded_config(options);
                const Config& config = loaded.config;
                World(config.topology, job.rank(), job.size());
                backend_choice(options.backend);
                check_data(config);
                if (job.rank() == 0) check_tokens(config, kScanned);
                plan = plan_run(config, options.resume);
            },
            [&](Communicator& job) {
                if (!options.check) return train_rank(loaded, options, plan, job);
                return job.rank() == 0 ? checked(loaded, options) : 0;
            });
    }
    return run_alone([&] {
        const LoadedConfig loaded = loaded_config(options);
        const Config& config = loaded.config;
        backend_choice(options.backend);
        check_data(config);
        const RunPlan plan = plan_run(config, options.resume);
        if (options.check) return checked(loaded, options);
        if (config.topology.n_ranks() > 1)
            return run_under_mpirun(config.topology.n_ranks(), arguments);
        check_tokens(config, kScanned);
        return train_rank(loaded, options, plan, *make_self_communicator());
    });
}

}  // namespace
}  // namespace fomoe

int main(int argc, char** argv) {
    using namespace fomoe;
    CLI::App app("Pre-trains a mixture-of-experts model on a federation of groups.");
    Options options;
    add_options(app, options);
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const int code = app.exit(error);
        return code == 0 ? 0 : static_cast<int>(Exit::usage);
    }
    init_log(options.verbose ? LogLevel::debug : log_level(options.log_level));
    return run(options, {argv + 1, argv + argc});
}
