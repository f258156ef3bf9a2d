// What is known of a run before its first step: for the metrics, and in lines for people.
#pragma once

#include "checkpoint/manifest.h"
#include "config/phases.h"
#include "device/device.h"
#include "model/parameters.h"
#include "plan/memory.h"
#include "train/metrics_writer.h"
#include "train/run_directory.h"

namespace fomoe {

// Of the group of this rank; without `step` and `resumed`.
StartMetrics start_metrics(const Config& config, const World& world, const Placement& placement,
                           const ParameterCounts& parameters, const std::string& backend);

// Where each rank of the job runs, by rank.
struct RankPlace {
    std::string host;
    int threads = 1;
};
// Collective over the job.
std::vector<RankPlace> rank_places(Communicator& job, const Threads& threads);

// GFLOP/s of the group's ranks together in a matmul alone, measured on all ranks at once, since
// that is how they will run; on CPUs with their share of the cores. Collective over the job.
double measure_ceiling(Communicator& job, Communicator& group, Backend& backend, DType dtype,
                       const Threads& threads);

struct StartFacts {
    const Config& config;
    const RunPlan& plan;
    const World& world;
    const Placement& placement;
    ParameterCounts parameters;  // as rank 0 counts them
    std::vector<RankPlace> places;
    std::vector<int64_t> source_tokens;  // as Loader says
    std::vector<double> epochs;          // of each source in the whole run, as Loader says
    double ceiling = 0;                  // GFLOP/s of rank 0's group in a matmul
};
std::vector<std::string> start_block(const StartFacts& facts);

// Of rank 0. `on_host`: its backend computes in the memory of the host.
std::string memory_line(const MemoryPlan& plan, bool on_host);

// "step 9", or "steps 7 to 9" where the groups do not stand at the same one.
std::string where_groups_stand(const Manifest& manifest);

std::string phase_line(const Phase& phase);

// "0-3,7": numbers in rising order.
std::string ranges(const std::vector<int>& numbers);

}  // namespace fomoe
