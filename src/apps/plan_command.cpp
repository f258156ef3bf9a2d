#include "apps/plan_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <numeric>
#include <thread>

#include "base/error.h"
#include "config/validate.h"
#include "plan/text.h"

namespace fomoe {
namespace {

// "3600,10": Gbit/s inside a group, of a rank, and between groups, of a group.
Bandwidth bandwidth_of(const std::string& text) {
    double intra = 0, inter = 0;
    int used = 0;
    const int found = std::sscanf(text.c_str(), "%lf,%lf%n", &intra, &inter, &used);
    if (found != 2 || used != static_cast<int>(text.size()) || !(intra > 0) || !(inter > 0))
        throw Error(Exit::usage,
                    fmt::format("--bandwidth {}: give two numbers above 0 such as 400,10, the "
                                "Gbit/s of a rank inside its group and of a group to the others",
                                text));
    return {.intra = intra * 1e9 / 8, .inter = inter * 1e9 / 8};
}

int64_t host_memory() { return int64_t{sysconf(_SC_PHYS_PAGES)} * int64_t{sysconf(_SC_PAGE_SIZE)}; }

}  // namespace

void add_plan_options(CLI::App& app, PlanCommand& command) {
    CLI::Option* const plan =
        app.add_flag("--plan{text}", command.format,
                     "Print what the config would take and send: no MPI, GPU, data")
            ->check(CLI::IsMember({"text", "json"}));
    app.add_option("--world", command.world, "Of --plan: as if the job had so many ranks")
        ->needs(plan);
    app.add_option("--device", command.device,
                   "Of --plan: h100, h200, a100, cpu; else h100 for bf16, or cpu")
        ->needs(plan);
    app.add_option("--bandwidth", command.bandwidth,
                   "Of --plan: Gbit/s inside of a group, between; as 400,10")
        ->needs(plan);
}

Config with_ranks(Config config, int ranks) {
    const int now = config.topology.n_ranks();
    int common = 0;  // each group has a multiple of 1 / common of the ranks
    for (const GroupConfig& group : config.topology.groups) common = std::gcd(common, group.ranks);
    const int unit = now / common;
    if (ranks < 1 || ranks % unit != 0)
        throw Error(Exit::usage,
                    fmt::format("--world {}: the groups keep their proportion, so that multiples "
                                "of {} would do, such as {} or {}",
                                ranks, unit, std::max(1, ranks / unit) * unit,
                                (std::max(0, ranks) / unit + 1) * unit));
    for (GroupConfig& group : config.topology.groups)
        group.ranks = static_cast<int>(int64_t{group.ranks} * ranks / now);
    std::string problems;
    for (const Problem& problem : validate(config))
        problems += fmt::format("\n  {}: {}", problem.path, problem.message);
    if (!problems.empty())
        throw Error(Exit::usage,
                    fmt::format("--world {}: all but the ranks stays, and does not fit:{}", ranks,
                                problems));
    return config;
}

void print_plan(Config config, const PlanCommand& command) {
    if (command.world) config = with_ranks(std::move(config), *command.world);
    PlanOptions options{.device = command.device,
                        .cores = static_cast<int>(std::thread::hardware_concurrency()),
                        .host_bytes = host_memory(),
                        .bandwidth = {}};
    if (!command.bandwidth.empty()) options.bandwidth = bandwidth_of(command.bandwidth);
    const Plan plan = make_plan(config, options);
    fmt::print("{}", command.format == "json" ? plan_json(config, plan) : plan_text(config, plan));
}

}  // namespace fomoe
