// A small model spread over a federation, with made-up training, and a reference in f64 that knows
// nothing of ranks.
#pragma once

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "federation/round.h"

namespace fomoe {

struct TinyConfig {
    ModelConfig model;
    TopologyConfig topology;
    FederationConfig federation;

    Placement placement() const { return Placement(federation, topology, model.moe.n_experts); }
    std::vector<Parameter> parameters() const { return all_parameters(model, placement()); }
};

// groups: (ranks, expert_parallel).
inline TinyConfig tiny_config(const std::vector<std::pair<int, int>>& groups, int replication,
                              OuterKind outer = OuterKind::nesterov) {
    TinyConfig config;
    config.model.d_model = 8;
    config.model.n_layers = 3;
    config.model.n_heads = 2;
    config.model.n_kv_heads = 1;
    config.model.vocab_size = 64;
    config.model.moe.n_experts = 12;
    config.model.moe.d_expert = 5;
    config.model.moe.bias_update = 0.001;
    config.topology.groups.clear();
    for (auto [ranks, expert_parallel] : groups) {
        GroupConfig group;
        group.name = concat("g", config.topology.groups.size());
        group.ranks = ranks;
        group.expert_parallel = expert_parallel;
        config.topology.groups.push_back(group);
    }
    FederationConfig& federation = config.federation;
    federation.replication = replication;
    federation.outer = {.optimizer = outer, .lr = 0.7, .momentum = 0.9};
    federation.shared = federation.router = federation.expert = federation.outer;
    federation.exchange_timeout = 60;
    return config;
}

// What a round of local steps adds to an element.
inline float local_progress(int64_t round, int group, const std::string& name, int64_t i) {
    return 0.05f * random_normal(random_key(100 * round + group, name), i);
}

// One rank of the federation.
class TinyRank {
public:
    TinyRank(const TinyConfig& config, Communicator& job)
        : config(config),
          placement(config.placement()),
          world(config.topology, job.rank(), job.size()),
          layout(arena_layout(config.parameters(), placement, world)),
          group(job.split(world.group_color())),
          replicas(job.split(world.expert_replica_color())),
          link(world, job, config.federation.exchange_timeout),
          arena(layout.size()) {
        for (const Parameter& p : layout.parameters)
            initial_values(p, 1, 0, p.count(), arena.data() + p.offset);
    }

    Federation federation(Link& over) {
        return Federation(config.federation, config.parameters(), layout, placement, world, over,
                          *group, *replicas);
    }
    Tensor weights() { return view(arena.data(), Shape(arena.size())); }
    void train(int64_t round) {
        for (const Parameter& p : layout.parameters)
            for (int64_t i = 0; i < p.count(); ++i)
                arena[p.offset + i] += local_progress(round, world.group, p.name, i);
    }
    float* find(const std::string& name) { return arena.data() + layout.find(name).offset; }

    TinyConfig config;
    Placement placement;
    World world;
    ArenaLayout layout;
    std::unique_ptr<Communicator> group, replicas;
    JobLink link;
    std::vector<float> arena;
};

// The same algorithm on whole parameters, one process, f64.
class TinyReference {
public:
    explicit TinyReference(const TinyConfig& config) : config_(config), all_(config.parameters()) {
        for (const Parameter& p : all_) {
            std::vector<float> start(p.count());
            initial_values(p, 1, 0, p.count(), start.data());
            anchor_[p.name].assign(start.begin(), start.end());
            momentum_[p.name].resize(p.count());
            for (int group : p.owners) local_[group][p.name] = anchor_[p.name];
        }
    }

    void train(int64_t round) {
        for (auto& [group, parameters] : local_)
            for (auto& [name, values] : parameters)
                for (size_t i = 0; i < values.size(); ++i)
                    values[i] += local_progress(round, group, name, i);
    }

    void follow(const FederationConfig& federation) { config_.federation = federation; }

    void add(int group, const std::string& name, double value) {
        for (double& x : local_[group][name]) x += value;
    }

    void round(const std::vector<bool>& contributed, const Classes& classes = kAllClasses) {
        for (const Parameter& p : all_) {
            if (!classes[static_cast<int>(p.cls)]) continue;
            const OuterRule rule = outer_rule(config_.federation, p.cls, p.owners.size());
            int n = 0;
            for (int group : p.owners) n += contributed[group];
            if (n == 0 || !rule.keeps_anchor) continue;
            for (int64_t i = 0; i < p.count(); ++i) {
                double mean = 0;
                for (int group : p.owners)
                    if (contributed[group]) mean += local_[group][p.name][i] / n;
                double &anchor = anchor_[p.name][i], &m = momentum_[p.name][i];
                if (rule.kind == OuterKind::nesterov) {
                    m = rule.momentum * m + anchor - mean;
                    anchor -= rule.lr * (rule.momentum * m + (anchor - mean));
                } else {
                    anchor = mean;
                }
                for (int group : p.owners) local_[group][p.name][i] = anchor;
            }
        }
    }

    // Throws when the rank's weights are further away than f32 rounding explains.
    void check(const TinyRank& rank, double tolerance = 2e-6) const {
        for (const Parameter& p : rank.layout.parameters) {
            const std::vector<double>& expected = local_.at(rank.world.group).at(p.name);
            for (int64_t i = 0; i < p.count(); ++i)
                FOMOE_CHECK(std::fabs(rank.arena[p.offset + i] - expected[i]) < tolerance, p.name,
                            "[", i, "] is ", rank.arena[p.offset + i], ", expected ", expected[i],
                            " on rank ", rank.world.rank);
        }
    }

private:
    TinyConfig config_;
    std::vector<Parameter> all_;
    std::map<std::string, std::vector<double>> anchor_, momentum_;
    std::map<int, std::map<std::string, std::vector<double>>> local_;
};

template <class T>
inline bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

inline std::vector<float> contents(const std::vector<StatePiece>& pieces) {
    std::vector<float> all;
    for (const StatePiece& piece : pieces) {
        const float* x = piece.values.as<float>();
        all.insert(all.end(), x, x + piece.values.count());
    }
    return all;
}

// Bytes of all parameters of a class with at least two owners, times 2 (n - 1).
inline int64_t expected_bytes(const TinyConfig& config, ParamClass cls) {
    int64_t bytes = 0;
    for (const Parameter& p : config.parameters())
        if (p.cls == cls) bytes += 2 * (std::ssize(p.owners) - 1) * 4 * p.count();
    return bytes;
}

}  // namespace fomoe
