#include "train/start_block.h"

namespace fomoe {

ParameterCounts count_parameters(const ModelConfig& model, const std::vector<Parameter>& all,
                                 const std::vector<Parameter>& held) {
    ParameterCounts n;
    for (const Parameter& p : all) {
        n.total += p.count();
        (p.cls == ParamClass::expert   ? n.expert
         : p.cls == ParamClass::router ? n.router
                                       : n.shared) += p.count();
    }
    n.active = n.total - n.expert + n.expert / model.moe.n_experts * model.moe.top_k;
    for (const Parameter& p : held) n.per_rank += p.count();
    return n;
}

StartMetrics start_metrics(const Config& config, const World& world, const Placement& placement,
                           const ParameterCounts& parameters, const std::string& backend) {
    StartMetrics m{.steps = config.train.steps,
                   .run = config.name,
                   .version = FOMOE_VERSION,
                   .groups = {},
                   .ranks = world.own().ranks,
                   .tokens_per_step = int64_t{config.train.batch} * config.data.seq_len,
                   .n_layers = config.model.n_layers,
                   .n_experts = config.model.moe.n_experts,
                   .top_k = config.model.moe.top_k,
                   .moe_layers = {},
                   .residents = {},
                   .local_steps = config.federation.local_steps,
                   .dtype = config.train.dtype == ComputeType::bf16 ? "bf16" : "f32",
                   .backend = backend,
                   .parameters = parameters};
    for (const World::Group& group : world.groups) m.groups.push_back(group.name);
    for (int l = config.model.moe.first_dense_layers; l < config.model.n_layers; ++l) {
        m.moe_layers.push_back(l);
        m.residents.push_back(placement.residents(l, world.group));
    }
    return m;
}

}  // namespace fomoe
