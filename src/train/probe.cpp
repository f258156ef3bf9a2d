#include "train/probe.h"

#include <cmath>
#include <numeric>

namespace fomoe {
namespace {

void append(std::vector<int32_t>& to, const std::vector<int32_t>& more) {
    to.insert(to.end(), more.begin(), more.end());
}

// Of p = s / (sum of s) over some experts, with s the router's scores.
double entropy(RouterKind router, const float* logits, const std::vector<int>& experts) {
    double most = -INFINITY, sum = 0, x_log_x = 0;
    for (int e : experts) most = std::max(most, double{logits[e]});
    for (int e : experts) {
        const double x = logits[e];
        const double score =
            router == RouterKind::softmax ? std::exp(x - most) : 1 / (1 + std::exp(-x));
        sum += score;
        if (score > 0) x_log_x += score * std::log(score);
    }
    return std::log(sum) - x_log_x / sum;
}

}  // namespace

bool Probe::wanted(const Config& config) {
    return config.federation.probe_sequences > 0 && config.topology.groups.size() > 1 &&
           config.model.moe.first_dense_layers < config.model.n_layers;
}

Probe::Probe(const Config& config, const ValidLoader& data)
    : tokens_(int64_t{config.federation.probe_sequences} * config.data.seq_len),
      top_k_(config.model.moe.top_k),
      first_layer_(config.model.moe.first_dense_layers),
      n_layers_(config.model.n_layers),
      n_experts_(config.model.moe.n_experts),
      router_(config.model.moe.router) {
    const int64_t wanted = config.federation.probe_sequences;
    int64_t available = 0;
    for (int source = 0; source < data.n_sources(); ++source) available += data.n_sequences(source);
    if (wanted > available)
        throw Error(Exit::data, concat("federation.probe_sequences: ", wanted,
                                       " sequences, but the sources hold out only ", available,
                                       "; lower it, or make the token files again with a larger "
                                       "--valid-fraction"));
    for (int64_t turn = 0; batch_.n_sequences < wanted; ++turn)
        for (int source = 0; source < data.n_sources() && batch_.n_sequences < wanted; ++source) {
            if (turn >= data.n_sequences(source)) continue;
            const Batch one = data.get(source, {turn, turn + 1});
            append(batch_.tokens, one.tokens);
            append(batch_.targets, one.targets);
            append(batch_.positions, one.positions);
            append(batch_.begin, one.begin);
            ++batch_.n_sequences;
        }
    const int64_t N = int64_t{config.train.micro_batch} * config.data.seq_len;
    FOMOE_CHECK(tokens_ <= N, "a probe of ", tokens_, " tokens in a micro-batch of ", N);
    // The rest of the micro-batch repeats the probe: routed alike, it takes the memory of a step.
    for (int64_t i = 0; i < N - tokens_; ++i) {
        batch_.tokens.push_back(batch_.tokens[i]);
        batch_.positions.push_back(batch_.positions[i]);
        if (config.data.document_mask) batch_.begin.push_back(batch_.begin[i]);
    }
    batch_.targets.resize(N, -1);
}

ProbeChoices Probe::choices(Transformer& transformer) const {
    transformer.route({.token = batch_.tokens,
                       .target = batch_.targets,
                       .position = batch_.positions,
                       .begin = batch_.begin});
    transformer.reset_totals();
    ProbeChoices choices{.experts = {}, .top_k = top_k_};
    for (int layer = first_layer_; layer < n_layers_; ++layer) {
        const std::vector<int32_t> chosen = transformer.chosen_experts(layer);
        for (int64_t i = 0; i < tokens_ * top_k_; ++i)
            choices.experts.push_back(static_cast<uint16_t>(chosen[i]));
    }
    return choices;
}

std::vector<double> Probe::router_entropy(const Transformer& transformer,
                                          const Placement* residents, int group) const {
    std::vector<int> experts(n_experts_);
    std::iota(experts.begin(), experts.end(), 0);
    std::vector<double> means;
    for (int layer = first_layer_; layer < n_layers_; ++layer) {
        if (residents) experts = residents->residents(layer, group);
        const std::vector<float> logits = transformer.router_logits(layer);
        double sum = 0;
        for (int64_t token = 0; token < tokens_; ++token)
            sum += entropy(router_, &logits[token * n_experts_], experts);
        means.push_back(sum / static_cast<double>(tokens_));
    }
    return means;
}

}  // namespace fomoe
