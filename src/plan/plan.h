// What a config would take and send, without running it: everything that fomoe-train --plan says.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "federation/baselines.h"
#include "plan/memory.h"
#include "plan/model.h"
#include "plan/time.h"

namespace fomoe {

struct PlanOptions {
    std::string
        device;     // as of device_rates; empty: h100 where the config computes in bf16, or cpu
    int cores = 1;  // of a host, and the bytes of its memory: of device cpu
    int64_t host_bytes = 0;
    std::optional<Bandwidth> bandwidth;  // in place of what is assumed
};

// Groups that differ in their names and in which experts they hold only.
struct GroupKind {
    std::vector<int> groups;  // indices, ascending
    int ranks = 1, expert_parallel = 1;
    int64_t parameters = 0;  // that a rank holds: the first, none holds more
    MemoryPlan memory;       // of that rank
    int64_t workspace = 0;   // memory.scratch, or an estimate of the scratch of a GPU's ops
    int64_t recomputed = 0;  // recomputed_bytes
    DispatchBytes dispatch;
    double choices = 0;             // (token, expert) pairs executed for a token, over all layers
    double flops_per_token = 0;     // forward and backward
    double choices_per_expert = 0;  // of a step, in a layer
    StepTraffic step;
    Bandwidth bandwidth;
    StepTime time;

    // Of the memory that the ranks compute in: with a GPU without what the host holds.
    int64_t device_bytes = 0, host_bytes = 0;
};

// The same experts in the first layer that has any; rotating ones differ in the others.
struct GroupExperts {
    std::string name;
    int first_rank = 0, ranks = 1;
    std::vector<std::vector<int>> shards;  // expert ids, by rank of expert_parallel
};

// Bytes of one exchange of everything, over all groups, in both ways of counting.
struct Exchanged {
    int64_t sent = 0, payload = 0;
};

struct CheckpointBytes {
    int64_t model = 0, anchor = 0, groups = 0;  // tensors, without headers
    int64_t total() const { return model + anchor + groups; }
};

struct Plan {
    std::string name, device;
    int ranks = 0;
    ParameterCounts parameters;
    std::vector<GroupExperts> experts;  // by group
    std::vector<GroupKind> kinds;
    TrafficBytes round;             // all groups together, all classes due
    int64_t largest_of_group = 0;   // the most that one group sends or receives in it
    TrafficBytes run;               // all rounds of the run
    Exchanged here, full_replicas;  // one exchange: of this placement, and of full replicas
    BaselineBytes baselines;        // of the run
    CheckpointBytes checkpoint;
    double step_seconds = 0, step_seconds_overlapped = 0;  // of the slowest group
    double exchange_seconds = 0;
    int64_t local_steps = 0;
    std::vector<std::string> warnings;
    DeviceRates rates;
};

// config.model.vocab_size must be resolved, and the config valid.
Plan make_plan(const Config& config, const PlanOptions& options);

// What a checkpoint of all ranks takes.
CheckpointBytes checkpoint_bytes(const Config& config, const FederationConfig& federation,
                                 const FederationTables& tables);

}  // namespace fomoe
