// Tiny models and hand-made batches that the tests of the model, the optimizer and the step share.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "data/loader.h"
#include "model/transformer.h"

namespace fomoe {

inline Config tiny_config() {
    Config config;
    config.name = "tiny";
    config.seed = 7;
    ModelConfig& model = config.model;
    model.d_model = 16;
    model.n_layers = 2;
    model.n_heads = 4;
    model.n_kv_heads = 2;
    model.vocab_size = 48;
    model.init_std = 0.1;
    model.moe.n_experts = 8;
    model.moe.top_k = 2;
    model.moe.d_expert = 8;
    config.data.seq_len = 12;
    config.train.steps = 50;
    config.train.batch = 8;
    config.train.micro_batch = 2;
    config.train.optimizer = {.lr = 3e-3, .min_lr = 3e-4, .warmup = 5};
    return config;
}

// Every kind of block and term that belongs to a sigmoid router.
inline Config tiny_sigmoid_config() {
    Config config = tiny_config();
    config.model.qk_norm = QkNorm::head;
    config.data.document_mask = true;
    MoeConfig& moe = config.model.moe;
    moe.n_shared_experts = 1;
    moe.router = RouterKind::sigmoid;
    moe.normalize_top_k = true;
    moe.top_k_scale = 1.7;
    moe.bias_update = 0.01;
    moe.aux_loss = 0.1;
    moe.z_loss = 0.01;
    return config;
}

// And what the other does not have: dense layer, mlp experts, tied embeddings, a partial rotation.
inline Config tiny_softmax_config() {
    Config config = tiny_config();
    config.model.tie_embeddings = true;
    config.model.rotary_fraction = 0.5;
    MoeConfig& moe = config.model.moe;
    moe.expert = ExpertKind::mlp;
    moe.activation = MlpActivation::gelu;
    moe.first_dense_layers = 1;
    moe.d_dense = 20;
    moe.normalize_top_k = false;
    moe.aux_loss = 0.1;
    moe.z_loss = 0.01;
    return config;
}

// Groups of {ranks, expert_parallel}.
inline TopologyConfig tiny_topology(const std::vector<std::pair<int, int>>& groups) {
    TopologyConfig topology;
    topology.groups.clear();
    for (const auto& [ranks, expert_parallel] : groups)
        topology.groups.push_back({.name = concat("g", topology.groups.size()),
                                   .ranks = ranks,
                                   .expert_parallel = expert_parallel,
                                   .data = {}});
    return topology;
}

// Two groups whose experts are not those of `blocks`: rotated, or lists that overlap. Under the
// lists the arena of the first group has experts of other layers between those of one layer.
inline std::vector<Config> otherwise_placed(Config config) {
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    std::vector<Config> configs(2, config);
    configs[0].federation.placement = PlacementKind::rotate;
    configs[1].federation.placement = PlacementKind::explicit_lists;
    configs[1].topology.experts = {{"g0", {1, 2, 4, 5}}, {"g1", {0, 2, 3, 5}}};
    for (int e = 6; e < config.model.moe.n_experts; ++e)
        configs[1].topology.experts[e % 2 ? "g0" : "g1"].push_back(e);
    return configs;
}

inline Placement placement_of(const Config& config) {
    return Placement(config.federation, config.topology, config.model.moe.n_experts);
}

// Sequences of a group's batch: tokens that mostly follow from the one before, some without a
// target, two documents in each sequence.
inline Batch tiny_batch(const Config& config, uint64_t key, Range sequences) {
    const int64_t T = config.data.seq_len, V = config.model.vocab_size;
    Batch batch;
    batch.n_sequences = sequences.size();
    for (int64_t i = 0; i < config.train.batch; ++i) {
        const uint64_t own = combine_bits(key, i);
        const int64_t cut_at = 1 + random_bits(own, 1) % (T - 1);
        int64_t token = random_bits(own, 2) % V;
        for (int64_t t = 0; t < T; ++t) {
            const bool follows = random_uniform(own, 10 + 3 * t) < 0.8;
            const int64_t next = follows ? (5 * token + 7) % V : random_bits(own, 11 + 3 * t) % V;
            const bool masked = random_uniform(own, 12 + 3 * t) < 0.1;
            batch.group_valid_tokens += !masked;
            if (sequences.begin <= i && i < sequences.end) {
                batch.tokens.push_back(static_cast<int32_t>(token));
                batch.targets.push_back(masked ? -1 : static_cast<int32_t>(next));
                batch.positions.push_back(static_cast<int32_t>(t));
                batch.valid_tokens += !masked;
                if (config.data.document_mask)
                    batch.begin.push_back(static_cast<int32_t>(t < cut_at ? 0 : cut_at));
            }
            token = next;
        }
    }
    return batch;
}

inline TokenBatch token_batch(const Batch& batch) {
    return {.token = batch.tokens,
            .target = batch.targets,
            .position = batch.positions,
            .begin = batch.begin};
}

inline void fill_initial_values(const ArenaLayout& layout, uint64_t seed, Tensor weights) {
    for (const Parameter& p : layout.parameters)
        initial_values(p, seed, 0, p.count(), weights.as<float>() + p.offset);
}

using Values = std::map<std::string, std::vector<float>>;  // parameter name -> its elements

// Sum of squared differences over the sum of squares of `expected`, over all parameters.
inline double nmse(const Values& x, const Values& expected) {
    double error = 0, power = 0;
    for (const auto& [name, want] : expected) {
        const std::vector<float>& got = x.at(name);
        for (size_t i = 0; i < want.size(); ++i) {
            error += (double{got[i]} - want[i]) * (double{got[i]} - want[i]);
            power += double{want[i]} * want[i];
        }
    }
    return error == 0 ? 0 : error / power;
}

}  // namespace fomoe
