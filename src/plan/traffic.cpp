#include "plan/traffic.h"

#include <map>
#include <optional>

#include "config/phases.h"
#include "federation/frozen_copies.h"
#include "federation/round.h"
#include "plan/memory.h"

namespace fomoe {
namespace {

// Ids of the probe, whose choices the groups compare in every round.
size_t probe_ids(const Config& config) {
    const MoeConfig& moe = config.model.moe;
    const int64_t layers = config.model.n_layers - moe.first_dense_layers;
    return int64_t{config.federation.probe_sequences} * config.data.seq_len * layers * moe.top_k;
}

// Who sends knows; nobody sends here.
std::vector<TrafficBytes> copies_traffic(const FederationTables& tables) {
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    JobLink link(tables.world, *alone, 1);
    const FrozenCopies copies(tables.all, tables.layout, tables.frozen, tables.placement,
                              tables.world, link, *alone);
    return copies.predict(std::vector<bool>(tables.world.n_groups(), true));
}

}  // namespace

StepTraffic step_traffic(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout* frozen) {
    const int P = world.own().ranks, EP = world.own().expert_parallel;
    StepTraffic bytes;
    for (const ArenaBucket& bucket : layout.buckets) {
        const int64_t ranks = bucket.experts ? P / EP : P;
        // Gradients are reduced to slices, and weights gathered from them.
        const int64_t both = 2 * (ranks - 1) * (bucket.size / ranks) * size_of(DType::f32);
        (bucket.experts ? bytes.experts : bytes.dense) += both;
    }
    if (EP == 1) return bytes;
    const MoeConfig& moe = config.model.moe;
    const BatchShape shape = Transformer::training_shape(config, layout, world, frozen);
    const double lanes = double(config.train.batch) / P / config.train.micro_batch * shape.lanes;
    const double layers = config.model.n_layers - moe.first_dense_layers;
    // One in EP stays. There: values, gates and slots; back: values; both once more as gradients.
    const double rows = even_routing(config, world, layout, frozen).sent * (EP - 1) / EP;
    const double of_row = 4.0 * config.model.d_model * size_of(shape.dtype) + 3.0 * moe.top_k * 4;
    bytes.tokens = static_cast<int64_t>(lanes * layers * rows * of_row);
    return bytes;
}

FederationTables::FederationTables(const Config& config, const FederationConfig& federation,
                                   int rank)
    : world(config.topology, rank, config.topology.n_ranks()),
      placement(federation, config.topology, config.model.moe.n_experts),
      all(all_parameters(config.model, placement)),
      layout(arena_layout(all, placement, world)),
      frozen(config.federation.absent == AbsentPolicy::proxy ? frozen_layout(all, placement, world)
                                                             : FrozenLayout{}),
      spans(owned_spans(all, layout, placement, world)) {}

std::vector<TrafficBytes> round_traffic(const Config& config, const FederationConfig& federation,
                                        const FederationTables& tables, const Participants& due,
                                        bool copies) {
    const int n_groups = tables.world.n_groups();
    const int64_t n_choices = int64_t{config.model.n_layers} * config.model.moe.n_experts;
    const int64_t control =
        round_control_words(CountUse(federation, config.model.moe), due.classes, n_choices,
                            probe_ids(config), tables.spans.size(), n_groups);
    std::vector<TrafficBytes> groups = predict_round(tables.spans, due, control, WireFormat::f32);
    const auto add = [&](const std::vector<TrafficBytes>& more) {
        for (int g = 0; g < n_groups; ++g) groups[g] += more[g];
    };
    for (bool moment : due.moments)
        if (moment) add(predict_round(tables.spans, due, 0, WireFormat::f32));
    if (copies) add(copies_traffic(tables));
    return groups;
}

TrafficBytes run_traffic(const Config& config, int64_t step) {
    TrafficBytes sum;
    if (config.topology.groups.size() == 1) return sum;
    const bool proxy = config.federation.absent == AbsentPolicy::proxy;
    const int expert = static_cast<int>(ParamClass::expert);
    std::optional<FederationTables> tables;
    std::optional<bool> full_replicas;  // of the tables
    int64_t copies_age = 0;
    for (const Phase& phase : phases_of(config)) {
        if (full_replicas != phase.full_replicas) copies_age = 0;
        using Due = std::tuple<Classes, Moments, bool>;
        std::map<Due, int64_t> rounds;
        for (int64_t s = phase.begin + 1; s <= std::min(phase.end, step); ++s) {
            const bool last = s == config.train.steps;
            const Classes due = last ? kAllClasses : classes_due(phase.federation, s - phase.begin);
            if (due == Classes{}) continue;
            Moments moments = moments_due(phase.federation, s - phase.begin);
            if (last && config.federation.inner_state == InnerState::average) moments = kAllMoments;
            const bool copies = proxy && due[expert] && ++copies_age >= config.federation.refresh;
            if (copies) copies_age = 0;
            ++rounds[{due, moments, copies}];
        }
        if (rounds.empty()) continue;
        if (full_replicas != phase.full_replicas) tables.emplace(config, phase.federation, 0);
        full_replicas = phase.full_replicas;
        const std::vector<bool> everyone(tables->world.n_groups(), true);
        for (const auto& [due, n] : rounds) {
            const auto& [classes, moments, copies] = due;
            const std::vector<TrafficBytes> groups =
                round_traffic(config, phase.federation, *tables,
                              {.classes = classes, .moments = moments, .groups = everyone}, copies);
            for (int64_t i = 0; i < n; ++i)
                for (const TrafficBytes& bytes : groups) sum += bytes;
        }
    }
    return sum;
}

}  // namespace fomoe
