#include "config/effects.h"

#include <algorithm>

namespace fomoe {

bool explicit_placement(const Config& config) {
    return config.federation.placement == PlacementKind::explicit_lists;
}

bool has_routed_layers(const Config& config) {
    return config.model.moe.first_dense_layers < config.model.n_layers;
}

bool full_replicas(const Config& config) {
    const TopologyConfig& topology = config.topology;
    if (!explicit_placement(config))
        return config.federation.replication == std::ssize(topology.groups);
    return std::ranges::all_of(topology.groups, [&](const GroupConfig& group) {
        const auto list = topology.experts.find(group.name);
        return list != topology.experts.end() &&
               std::ssize(list->second) == config.model.moe.n_experts;
    });
}

bool several_groups(const Config& config) { return config.topology.groups.size() > 1; }

bool shards_experts(const Config& config) {
    return std::ranges::any_of(config.topology.groups,
                               [](const GroupConfig& group) { return group.expert_parallel > 1; });
}

bool outer_steps(const Config& config) {
    const FederationConfig& f = config.federation;
    return several_groups(config) || f.shared_named || f.router_named || f.expert_named;
}

bool outer_momentum(const Config& config) {
    const FederationConfig& f = config.federation;
    return std::ranges::any_of(
        std::initializer_list<const OuterConfig*>{&f.shared, &f.router, &f.expert},
        [](const OuterConfig* outer) { return outer->optimizer == OuterKind::nesterov; });
}

}  // namespace fomoe
