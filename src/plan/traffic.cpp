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

// What a round exchanges: classes, moments, and whether frozen copies are refreshed.
using Due = std::tuple<Classes, Moments, bool>;

// The rounds of a phase up to `step`, how many of each kind. `copies_age` as of Federation.
std::map<Due, int64_t> rounds_of(const Config& config, const Phase& phase, int64_t step,
                                 int64_t& copies_age) {
    const FederationConfig& federation = phase.federation;
    const bool proxy = federation.absent == AbsentPolicy::proxy;
    std::map<Due, int64_t> rounds;
    for (int64_t s = phase.begin + 1; s <= std::min(phase.end, step); ++s) {
        const bool last = s == config.train.steps;
        const Classes due = last ? kAllClasses : classes_due(federation, s - phase.begin);
        if (due == Classes{}) continue;
        const bool average = federation.inner_state == InnerState::average;
        const Moments moments =
            last && average ? kAllMoments : moments_due(federation, s - phase.begin);
        const bool experts = due[static_cast<int>(ParamClass::expert)];
        const bool copies = proxy && experts && ++copies_age >= federation.refresh;
        if (copies) copies_age = 0;
        ++rounds[{due, moments, copies}];
    }
    return rounds;
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

TrafficBytes run_traffic(const Config& config, int64_t step, const FederationTables* known) {
    TrafficBytes sum;
    if (config.topology.groups.size() == 1) return sum;
    const std::vector<bool> everyone(config.topology.groups.size(), true);
    const std::vector<Phase> phases = phases_of(config);
    std::optional<FederationTables> own;
    int64_t copies_age = 0;
    for (size_t i = 0; i < phases.size(); ++i) {
        const Phase& phase = phases[i];
        // Another placement: what is frozen is new.
        const bool moved = i > 0 && phase.full_replicas != phases[i - 1].full_replicas;
        if (moved) copies_age = 0;
        const std::map<Due, int64_t> rounds = rounds_of(config, phase, step, copies_age);
        if (rounds.empty()) continue;
        const bool is_known = known && phase.full_replicas == phases.back().full_replicas;
        if (!is_known && (moved || !own)) own.emplace(config, phase.federation, 0);
        for (const auto& [due, n] : rounds) {
            const auto& [classes, moments, copies] = due;
            const std::vector<TrafficBytes> groups =
                round_traffic(config, phase.federation, is_known ? *known : *own,
                              {.classes = classes, .moments = moments, .groups = everyone}, copies);
            for (int64_t round = 0; round < n; ++round)
                for (const TrafficBytes& bytes : groups) sum += bytes;
        }
    }
    return sum;
}

}  // namespace fomoe
