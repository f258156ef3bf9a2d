// The plan as one JSON object.
#include <nlohmann/json.hpp>

#include "config/schema.h"
#include "model/flops.h"
#include "plan/text.h"

namespace fomoe {
namespace {

using Json = nlohmann::ordered_json;

Json by_traffic(const TrafficBytes& bytes) {
    Json json;
    for (int i = 0; i < kTraffic; ++i) json[name_of(static_cast<Traffic>(i))] = bytes.sent[i];
    json["total"] = bytes.total_sent();
    return json;
}

Json kind_json(const Config& config, const Plan& plan, const GroupKind& kind) {
    Json names = Json::array();
    for (int g : kind.groups) names.push_back(plan.experts[g].name);
    const MemoryPlan& m = kind.memory;
    const bool bf16 = config.train.dtype == ComputeType::bf16;
    const auto step = [&](double seconds) {
        const double tokens = double(config.train.batch) * config.data.seq_len;
        return Json{{"seconds", seconds}, {"tokens_per_second", tokens / seconds}};
    };
    return {
        {"groups", names},
        {"ranks", kind.ranks},
        {"expert_parallel", kind.expert_parallel},
        {"parameters", kind.parameters},
        {"memory_bytes",
         {{"weights", bf16 ? m.rounded : m.weights},
          {"masters", bf16 ? m.weights : 0},
          {"gradients", m.gradients},
          {"moments", m.moments},
          {"outer", m.outer},
          {"frozen_copies", m.copies},
          {"activations", m.activations},
          {"activations_if_recomputed", kind.recomputed},
          {"dispatch",
           {{"even", kind.dispatch.even},
            {"planned", kind.dispatch.planned},
            {"worst", kind.dispatch.worst}}},
          {"workspace", kind.workspace},
          {"evaluation", m.evaluation},
          {"page_ends", m.pages},
          {"snapshot", m.snapshot},
          {"total", kind.device_bytes},
          {"host", kind.host_bytes}}},
        {"executed_choices_per_token", kind.choices},
        {"flops_per_token", kind.flops_per_token},
        {"choices_per_expert_and_step", kind.choices_per_expert},
        {"step_sent_bytes",
         {{"shared_and_router", kind.step.dense},
          {"expert", kind.step.experts},
          {"tokens", kind.step.tokens},
          {"total", kind.step.total()}}},
        {"estimate_step",
         {{"compute_seconds", kind.time.compute},
          {"messages_seconds", kind.time.inside},
          {"in_turn", step(kind.time.in_turn())},
          {"overlapped", step(kind.time.overlapped())}}},
    };
}

}  // namespace

std::string plan_json(const Config& config, const Plan& plan) {
    Json json{{"name", plan.name}, {"device", plan.device}, {"ranks", plan.ranks}};
    Json& groups = json["groups"] = Json::array();
    for (size_t g = 0; g < plan.experts.size(); ++g) {
        const GroupExperts& group = plan.experts[g];
        groups.push_back({{"name", group.name},
                          {"first_rank", group.first_rank},
                          {"ranks", group.ranks},
                          {"expert_parallel", config.topology.groups[g].expert_parallel},
                          {"experts", group.shards}});
    }
    const ParameterCounts& n = plan.parameters;
    json["parameters"] = {{"total", n.total},
                          {"active", n.active},
                          {"shared", n.shared},
                          {"router", n.router},
                          {"expert", n.expert}};
    const FlopsPerToken flops = flops_per_token(config.model, config.data.seq_len);
    json["flops_per_token"] = {{"always", flops.always}, {"per_choice", flops.per_choice}};
    Json& kinds = json["kinds"] = Json::array();
    for (const GroupKind& kind : plan.kinds) kinds.push_back(kind_json(config, plan, kind));

    const int64_t H = plan.local_steps;
    const auto exchanges = [&](int64_t Exchanged::*bytes) {
        return Json{{"this_config", plan.here.*bytes},
                    {"full_replicas", plan.full_replicas.*bytes},
                    {"data_parallel", H * plan.full_replicas.*bytes}};
    };
    json["round"] = {{"local_steps", H},
                     {"sent_bytes", by_traffic(plan.round)},
                     {"most_of_a_group_bytes", plan.largest_of_group},
                     {"values_sent_bytes", exchanges(&Exchanged::sent)},
                     {"values_payload_bytes", exchanges(&Exchanged::payload)},
                     {"estimate_steps_seconds", double(H) * plan.step_seconds},
                     {"estimate_exchange_seconds", plan.exchange_seconds}};
    json["run"] = {{"steps", config.train.steps},
                   {"sent_bytes", by_traffic(plan.run)},
                   {"data_parallel_bytes", plan.baselines.data_parallel},
                   {"full_replica_bytes", plan.baselines.full_replicas}};
    json["checkpoint_bytes"] = {{"model", plan.checkpoint.model},
                                {"outer_momentum", plan.checkpoint.anchor},
                                {"groups", plan.checkpoint.groups},
                                {"total", plan.checkpoint.total()}};
    json["assumed"] = {{"matmul_flops_per_second", peak_flops(config.train, plan.rates)},
                       {"share_in_experts_and_attention",
                        config.train.dtype == ComputeType::bf16 ? plan.rates.mma : 1.0},
                       {"memory_bytes_per_second", plan.rates.memory},
                       {"device_bytes", plan.rates.bytes},
                       {"intra_bytes_per_second", plan.kinds[0].bandwidth.intra},
                       {"inter_bytes_per_second", plan.kinds[0].bandwidth.inter}};
    json["warnings"] = plan.warnings;
    return json.dump(2) + "\n";
}

}  // namespace fomoe
