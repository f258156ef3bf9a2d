// fomoe-train: trains a federation from one config file. Started alone it starts its ranks itself.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <optional>

#include "apps/build_info.h"
#include "apps/config_commands.h"
#include "apps/plan_command.h"
#include "apps/program.h"
#include "base/log.h"
#include "config/dump.h"
#include "config/load.h"
#include "config/units.h"
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
    std::optional<double> max_time;
    ConfigCommands commands;
    bool check_backend = false;
    bool profile = false;
    std::string log_level = "info";
    bool verbose = false;
    PlanCommand plan;
};

constexpr const char* kExitCodes =
    "Exit codes: 0 done | 1 internal error, no GPU, out of memory | 2 usage or config | 3 data or\n"
    "checkpoint | 4 diverged | 5 communication | 75 saved on request, run again";

void add_options(CLI::App& app, Options& options) {
    app.add_option("CONFIG", options.files, "Config files; later ones override earlier ones");
    app.option_defaults()->group("Config");
    // One value an option: what follows is a config file again.
    app.add_option("--set", options.sets, "Override a key: --set model.moe.top_k=4")
        ->expected(1)
        ->take_all();
    add_config_commands(app, options.commands);
    app.option_defaults()->group("Run");
    app.add_option("--resume", options.resume,
                   "auto: from the newest checkpoint; never: anew; or a path")
        ->capture_default_str();
    app.add_option("--calibrate", options.calibrate,
                   "Calibrate the union behind the run: calibration.steps")
        ->check(CLI::NonNegativeNumber);
    app.add_option_function<std::string>(
        "--max-time",
        [&options](const std::string& text) {
            const std::optional<double> seconds = read_seconds(text);
            if (!seconds || *seconds <= 0)
                throw CLI::ValidationError("--max-time",
                                           "takes a time such as 4h or 90min, not '" + text + "'");
            options.max_time = seconds;
        },
        "Save and stop with exit code 75 before this time (90min, 4h) is over");
    app.add_option("--backend", options.backend, "cpu; cuda, or an error; auto: GPUs if there are")
        ->capture_default_str();
    app.option_defaults()->group("Output");
    app.add_option("--log-level", options.log_level, "Least that stderr shows")
        ->capture_default_str()
        ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
    app.add_flag("-v,--verbose", options.verbose, "As --log-level debug: which GPU each rank has");
    app.add_flag("--profile", options.profile,
                 "Print the time of each op, and the wait for data, at the end");
    app.add_flag("--check-backend", options.check_backend,
                 "Run every op also on one CPU thread and compare");
    app.option_defaults()->group("Plan");
    add_plan_options(app, options.plan);
    app.option_defaults()->group("Help");
    app.set_help_flag("-h,--help", "Print this")->group("Help");
    add_build_options(app);
    app.footer(kExitCodes);
    app.get_formatter()->column_width(30);
}

LoadedConfig loaded_as_asked(const Options& options) {
    std::vector<std::string> sets = options.sets;
    if (options.calibrate) sets.push_back(concat("calibration.steps=", *options.calibrate));
    return load_with_origins(options.files, sets);
}

LoadedConfig loaded_config(const Options& options) {
    LoadedConfig loaded = loaded_as_asked(options);
    loaded.config.model.vocab_size = vocab_size(loaded.config.model);
    return loaded;
}

// Lines in the form of a compiler's.
void say(const std::vector<std::string>& warnings) {
    for (const std::string& line : warnings) log_info(line);
}

// What came before may have taken long. Collective.
bool asked_before_start(const StopRequests& stop, Communicator& job) {
    int64_t asked = stop.asked();
    job.all_reduce_max(view(&asked, Shape(1)));
    if (asked && job.rank() == 0)
        log_info("stopped before the run was begun; run again to begin it");
    return asked != 0;
}

int train_rank(const LoadedConfig& loaded, const Options& options, const RunPlan& plan,
               StopSignals& signals, Communicator& job, Activity& activity) {
    const Config& config = loaded.config;
    StopRequests stop(signals, config.checkpoint, time_limit(options.max_time));
    if (asked_before_start(stop, job)) return static_cast<int>(Exit::resumable);
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
        if (backend->name() == "cpu" && config.train.dtype == ComputeType::bf16 &&
            !cpu_multiplies_bf16())
            log_warning(
                "train.dtype: bf16 will be slower than f32: this build has no matmuls in "
                "bf16, for want of AVX512-BF16 in the processor it was built for, and "
                "multiplies copies in f32");
        log_info(device.description);
        for (const std::string& line : device.warnings) log_warning(line);
        for (const std::string& line : device.table) log(LogLevel::debug, line);
    }
    const RunEnd end =
        train_run(config, plan, job, {*backend, device.connect, threads}, stop, activity);
    if (check && job.rank() == 0)
        log_info(fmt::format("backend check: {} ops compared, largest NMSE {:.1e} in {}",
                             check->ops_compared(), check->worst_nmse(), check->worst_op()));
    if (trace && job.rank() == 0)
        fmt::print("{}{}",
                   profile_table(trace->report(),
                                 measure_ceilings(*device.backend, dtype_of(config.train.dtype),
                                                  threads.count),
                                 end.steps_done),
                   data_wait_line(end.times, end.steps_done));
    return static_cast<int>(end.exit);
}

// --check, when the config and the start of the data are already known to be right.
int checked(const LoadedConfig& loaded, const RunPlan& plan, const Options& options) {
    say(loaded.warnings);
    check_run(loaded.config, plan);
    for (const std::string& file : options.files) fmt::print("{}: ok\n", file);
    return 0;
}

int run(const Options& options, const std::vector<std::string>& arguments) {
    if (!options.commands.help.empty())
        return run_alone([&] {
            print_config_help(options.commands.help);
            return 0;
        });
    if (options.files.empty())
        return run_alone([]() -> int {
            throw Error(Exit::usage, "no config is given; fomoe-train --help says how");
        });
    if (!options.commands.dump.empty())
        return run_alone([&] {
            const LoadedConfig loaded = loaded_as_asked(options);
            say(loaded.warnings);
            print_config(loaded, options.commands.dump);
            return 0;
        });
    if (options.plan.asked())
        return run_alone([&] {
            const LoadedConfig loaded = loaded_config(options);
            say(loaded.warnings);
            print_plan(loaded.config, options.plan);
            return 0;
        });
    if (started_by_launcher()) {
        std::optional<StopSignals> signals;
        if (!options.commands.check) signals.emplace();
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
                plan.config_text = dump_with_origins(config, loaded.origins);
            },
            [&](Communicator& job, Watchdog& watchdog) {
                if (options.commands.check)
                    return job.rank() == 0 ? checked(loaded, plan, options) : 0;
                const Config& config = loaded.config;
                watchdog.record_in(
                    plan.ranks_file().string(),
                    std::min(config.train.collective_timeout, config.federation.exchange_timeout));
                return train_rank(loaded, options, plan, *signals, job, watchdog.activity());
            });
    }
    return run_alone([&] {
        const LoadedConfig loaded = loaded_config(options);
        const Config& config = loaded.config;
        const bool starts_ranks = config.topology.n_ranks() > 1;
        std::optional<StopSignals> signals;
        if (!starts_ranks && !options.commands.check) signals.emplace();
        backend_choice(options.backend);
        check_data(config);
        RunPlan plan = plan_run(config, options.resume);
        plan.config_text = dump_with_origins(config, loaded.origins);
        if (options.commands.check) return checked(loaded, plan, options);
        if (starts_ranks) return run_under_mpirun(config.topology.n_ranks(), arguments);
        check_tokens(config, kScanned);
        Activity unwatched;
        return train_rank(loaded, options, plan, *signals, *make_self_communicator(), unwatched);
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
