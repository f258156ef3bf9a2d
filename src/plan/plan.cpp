#include "plan/plan.h"

#include <algorithm>

#include "checkpoint/pieces.h"
#include "config/phases.h"
#include "federation/outer_optimizer.h"
#include "model/flops.h"
#include "plan/warnings.h"

namespace fomoe {
namespace {

int first_routed_layer(const Config& config) {
    return std::min(config.model.moe.first_dense_layers, config.model.n_layers - 1);
}

GroupExperts experts_of(const Config& config, const FederationTables& tables, int group) {
    const World::Group& of = tables.world.groups[group];
    GroupExperts experts{.name = of.name, .first_rank = of.first_rank, .ranks = of.ranks};
    if (config.model.moe.first_dense_layers >= config.model.n_layers) return experts;
    const std::vector<int> held = tables.placement.residents(first_routed_layer(config), group);
    for (int shard = 0; shard < of.expert_parallel; ++shard) {
        const Range slots = World::shard_slots(of, static_cast<int>(held.size()), shard);
        experts.shards.emplace_back(held.begin() + slots.begin, held.begin() + slots.end);
    }
    return experts;
}

// Choices of a token that its group computes, over all layers, and what they cost: a choice that a
// frozen copy serves has no gradient of weights, a third of the work.
struct Choices {
    double executed = 0, cost = 0;
};
Choices choices_of(const Config& config, int residents) {
    const MoeConfig& moe = config.model.moe;
    const double all = double(moe.top_k) * (config.model.n_layers - moe.first_dense_layers);
    const double here = double(residents) / moe.n_experts;
    switch (config.federation.absent) {
        case AbsentPolicy::reroute:
            return {all, all};
        case AbsentPolicy::proxy:
            return {all, all * (here + (1 - here) * 2 / 3)};
        case AbsentPolicy::skip:
        case AbsentPolicy::renormalize:
            break;
    }
    return {all * here, all * here};
}

// `tables` are those of the group's first rank.
GroupKind kind_of(const Config& config, const FederationConfig& federation,
                  const FederationTables& tables, const PlanOptions& options,
                  const DeviceRates& rates) {
    const bool gpu = rates.name != "cpu";
    const int threads = gpu ? 0 : std::max(1, options.cores / config.topology.n_ranks());
    const World& world = tables.world;
    const World::Group& own = world.own();
    const bool proxy = config.federation.absent == AbsentPolicy::proxy;
    const FrozenLayout* frozen = proxy ? &tables.frozen : nullptr;
    const int residents = static_cast<int>(
        tables.placement.residents(first_routed_layer(config), world.group).size());
    const Choices choices = choices_of(config, residents);
    const double layers = std::max(1, config.model.n_layers - config.model.moe.first_dense_layers);
    const double tokens = double(config.train.batch) * config.data.seq_len;

    GroupKind kind{
        .groups = {world.group},
        .ranks = own.ranks,
        .expert_parallel = own.expert_parallel,
        .parameters = count_parameters(config.model, {}, tables.layout.parameters).per_rank};
    const int64_t outer = outer_bytes(federation, tables.spans, tables.layout);
    kind.memory = memory_plan(config, world, tables.layout, frozen, threads, outer);
    if (config.federation.evaluate_every > 0)
        kind.memory.evaluation =
            evaluation_bytes(config, world, tables.layout,
                             frozen_layout(tables.all, tables.placement, world), threads);
    kind.memory.snapshot = snapshot_bytes(config, federation, world, tables.placement,
                                          tables.layout, tables.spans, frozen);
    kind.workspace =
        gpu ? device_scratch_bytes(config, world, tables.layout, frozen) : kind.memory.scratch;
    kind.recomputed = recomputed_bytes(config, world, tables.layout, frozen);
    kind.dispatch = dispatch_bytes(config, world, tables.layout, frozen);
    // With a GPU the weights lie on the host, too, on their way to and from other groups.
    kind.host_bytes =
        gpu ? kind.memory.beside_device() + (world.n_groups() > 1 ? kind.memory.weights : 0) : 0;
    kind.device_bytes =
        kind.memory.total() + (gpu ? kind.workspace - kind.memory.beside_device() : int64_t{0});

    kind.choices = choices.executed;
    kind.flops_per_token = flops_per_token(config.model, config.data.seq_len).of(choices.cost);
    const int served = proxy ? config.model.moe.n_experts : residents;
    kind.choices_per_expert = tokens * choices.executed / layers / served;
    kind.step = step_traffic(config, world, tables.layout, frozen);
    kind.bandwidth = options.bandwidth.value_or(assumed_bandwidth(rates, own.ranks));
    kind.time = step_time(config, world, tables.layout, frozen, choices.cost,
                          kind.memory.activations, kind.step, rates, kind.bandwidth.intra);
    return kind;
}

// Under explicit placement the owners of each group's experts may differ in number, too.
bool alike(const Config& config, const GroupKind& kind, const World& world, int group) {
    const World::Group& of = world.groups[group];
    return config.federation.placement != PlacementKind::explicit_lists && kind.ranks == of.ranks &&
           kind.expert_parallel == of.expert_parallel;
}

int64_t bytes_of(const std::vector<TensorSpec>& tensors) {
    int64_t bytes = 0;
    for (const TensorSpec& spec : tensors) bytes += spec.shape.count() * size_of(spec.dtype);
    return bytes;
}

// What bad steps are judged by: losses and norms of 64 steps, and two counts, f32.
constexpr int64_t kBadStepState = 130 * 4;

}  // namespace

CheckpointBytes checkpoint_bytes(const Config& config, const FederationConfig& federation,
                                 const FederationTables& tables) {
    CheckpointBytes bytes{.model = bytes_of(model_tensors(tables.all))};
    for (const OwnedSpan& span : tables.spans)
        if (outer_rule(federation, span.cls, span.n_owners()).keeps_momentum())
            bytes.anchor += span.size * size_of(DType::f32);
    const int64_t n_groups = tables.world.n_groups();
    const int64_t n_choices = int64_t{config.model.n_layers} * config.model.moe.n_experts;
    const bool proxy = config.federation.absent == AbsentPolicy::proxy;
    int64_t copies = 0;
    for (const Parameter& p : tables.all) {
        const int64_t owners = std::ssize(p.owners);
        // Weights and both moments; the step after which the moments start.
        bytes.groups += owners * (3 * p.count() * size_of(DType::f32) + size_of(DType::i64));
        if (proxy) copies += (n_groups - owners) * p.count() * size_of(DType::bf16);
    }
    // Choices of the last step, those since the last exchanges by class, those exchanged.
    const int64_t of_group =
        n_choices * size_of(DType::f32) + (3 * (1 + n_choices) + n_choices) * size_of(DType::i64);
    bytes.groups += n_groups * (of_group + kBadStepState);
    if (copies > 0) bytes.groups += copies + n_groups * size_of(DType::i64);
    return bytes;
}

Plan make_plan(const Config& config, const PlanOptions& options) {
    const std::string device = !options.device.empty()                   ? options.device
                               : config.train.dtype == ComputeType::bf16 ? "h100"
                                                                         : "cpu";
    const int n_groups = static_cast<int>(config.topology.groups.size());
    // Of runs with phases the last: what holds in the end.
    const FederationConfig federation = phases_of(config).back().federation;

    Plan plan{.name = config.name, .device = device, .ranks = config.topology.n_ranks()};
    plan.rates = device_rates(device, options.cores, plan.ranks);
    plan.local_steps = federation.local_steps;
    const FederationTables tables(config, federation, 0);
    plan.parameters = count_parameters(config.model, tables.all, {});
    for (int g = 0; g < n_groups; ++g) {
        plan.experts.push_back(experts_of(config, tables, g));
        const auto same = std::ranges::find_if(plan.kinds, [&](const GroupKind& kind) {
            return alike(config, kind, tables.world, g);
        });
        if (same != plan.kinds.end())
            same->groups.push_back(g);
        else if (g == 0)
            plan.kinds.push_back(kind_of(config, federation, tables, options, plan.rates));
        else
            plan.kinds.push_back(
                kind_of(config, federation,
                        FederationTables(config, federation, tables.world.groups[g].first_rank),
                        options, plan.rates));
    }
    for (const GroupKind& kind : plan.kinds) {
        plan.step_seconds = std::max(plan.step_seconds, kind.time.in_turn());
        plan.step_seconds_overlapped =
            std::max(plan.step_seconds_overlapped, kind.time.overlapped());
    }

    if (n_groups > 1) {
        const std::vector<bool> everyone(n_groups, true);
        const bool proxy = config.federation.absent == AbsentPolicy::proxy;
        double slowest = plan.kinds[0].bandwidth.inter;
        for (const TrafficBytes& bytes : round_traffic(
                 config, federation, tables,
                 {.classes = kAllClasses, .moments = kNoMoments, .groups = everyone}, proxy)) {
            plan.round += bytes;
            plan.largest_of_group =
                std::max({plan.largest_of_group, bytes.total_sent(), bytes.total_received()});
        }
        plan.exchange_seconds = static_cast<double>(plan.largest_of_group) / slowest;
    }
    plan.run = run_traffic(config, config.train.steps);
    plan.here = {exchange_bytes(tables.all, Counting::sent),
                 exchange_bytes(tables.all, Counting::payload)};
    plan.full_replicas = {full_exchange_bytes(tables.all, n_groups, Counting::sent),
                          full_exchange_bytes(tables.all, n_groups, Counting::payload)};
    plan.baselines = baseline_bytes(config, tables.all, config.train.steps);
    plan.checkpoint = checkpoint_bytes(config, federation, tables);
    plan.warnings = plan_warnings(config, plan, options);
    return plan;
}

}  // namespace fomoe
