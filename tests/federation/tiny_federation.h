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

// What a group counts in a round of local steps: often nothing at all of an expert.
struct LocalCounts {
    int64_t tokens;
    std::vector<float> choices;  // (L, E)
};
inline LocalCounts local_counts(const TinyConfig& config, int64_t round, int group) {
    const auto draw = [&](int64_t i, uint64_t n) {
        return random_bits(random_key(100 * round + group, "counts"), i) % n;
    };
    LocalCounts counts{.tokens = static_cast<int64_t>(draw(0, 40)), .choices = {}};
    const int n_choices = config.model.n_layers * config.model.moe.n_experts;
    for (int i = 1; i <= n_choices; ++i)
        counts.choices.push_back(draw(i, 2) ? static_cast<float>(draw(n_choices + i, 9)) : 0.0f);
    return counts;
}

// One rank of the federation.
class TinyRank {
public:
    TinyRank(const TinyConfig& config, Communicator& job)
        : config(config),
          placement(config.placement()),
          world(config.topology, job.rank(), job.size()),
          layout(arena_layout(config.parameters(), placement, world, 300)),  // several buckets
          group(job.split(world.group_color())),
          replicas(job.split(world.expert_replica_color())),
          link(world, job, config.federation.exchange_timeout),
          arena(layout.size()) {
        for (const Parameter& p : layout.parameters)
            initial_values(p, 1, 0, p.count(), arena.data() + p.offset);
    }

    Federation federation(Link& over) {
        return Federation(config.federation, config.parameters(), layout, placement, world, over,
                          *group, *replicas, config.model);
    }
    Tensor weights() { return view(arena.data(), Shape(arena.size())); }
    void train(int64_t round) {
        for (const Parameter& p : layout.parameters)
            for (int64_t i = 0; i < p.count(); ++i)
                arena[p.offset + i] += local_progress(round, world.group, p.name, i);
    }
    // Trains and counts.
    void train(int64_t round, Federation& federation) {
        train(round);
        const LocalCounts counts = local_counts(config, round, world.group);
        federation.count(counts.tokens, counts.choices);
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
        for (auto& [group, parameters] : local_) {
            for (auto& [name, values] : parameters)
                for (size_t i = 0; i < values.size(); ++i)
                    values[i] += local_progress(round, group, name, i);
            const LocalCounts counts = local_counts(config_, round, group);
            for (const Parameter& p : all_) {
                std::vector<double>& counted = counted_[group][p.name];
                counted.resize(p.count());
                std::vector<double>& by_row = counted_by_row_[group][p.name];
                by_row.resize(p.count());
                const int E = config_.model.moe.n_experts;
                for (int64_t i = 0; i < p.count(); ++i) {
                    const float* choices = counts.choices.data() + std::max(0, p.layer) * E;
                    counted[i] += p.cls == ParamClass::expert ? choices[p.expert] : counts.tokens;
                    if (p.cls == ParamClass::router) by_row[i] += choices[row(p, i)];
                }
            }
        }
    }

    void follow(const FederationConfig& federation) { config_.federation = federation; }

    void add(int group, const std::string& name, double value) {
        for (double& x : local_[group][name]) x += value;
    }
    std::vector<double>& local(int group, const std::string& name) {
        return local_.at(group).at(name);
    }
    // Rounds average moments of parameters that have been given here.
    std::vector<double>& moment(int moment, int group, const std::string& name) {
        return moments_[moment][group][name];
    }

    // By group: all that takes part is finite, and not too far from its anchor.
    std::vector<bool> contributors(const Classes& classes, const Moments& moments) const {
        const auto finite = [](const std::vector<double>& values) {
            return std::ranges::all_of(values, [](double x) { return std::isfinite(x); });
        };
        std::vector<bool> accepted(config_.topology.groups.size(), true);
        std::vector<double> norms(accepted.size(), 0), known;
        for (const Parameter& p : all_) {
            if (!classes[static_cast<int>(p.cls)]) continue;
            for (int g : p.owners) {
                const std::vector<double>& values = local_.at(g).at(p.name);
                accepted[g] = accepted[g] && finite(values);
                for (int moment = 0; moment < kMoments; ++moment)
                    if (moments[moment] && p.owners.size() > 1)
                        accepted[g] = accepted[g] && finite(moments_[moment].at(g).at(p.name));
                if (!outer_rule(config_.federation, p.cls, p.owners.size()).keeps_anchor) continue;
                for (size_t i = 0; i < values.size(); ++i)
                    norms[g] += std::pow(values[i] - anchor_.at(p.name)[i], 2);
            }
        }
        for (size_t g = 0; g < norms.size(); ++g)
            if (accepted[g] && norms[g] > 0) known.push_back(std::sqrt(norms[g]));
        if (config_.federation.reject_above == 0 || known.empty()) return accepted;
        std::ranges::sort(known);
        const double most = config_.federation.reject_above * known[(known.size() - 1) / 2];
        for (size_t g = 0; g < norms.size(); ++g)
            accepted[g] = accepted[g] && std::sqrt(norms[g]) <= most;
        return accepted;
    }

    void round(const std::vector<bool>& contributed, const Classes& classes = kAllClasses,
               const Moments& moments = kNoMoments) {
        for (const Parameter& p : all_) {
            if (!classes[static_cast<int>(p.cls)]) continue;
            const OuterRule rule = outer_rule(config_.federation, p.cls, p.owners.size());
            int n = 0;
            for (int group : p.owners) n += contributed[group];
            if (n == 0) continue;
            for (int moment = 0; moment < kMoments; ++moment)
                if (moments[moment] && p.owners.size() > 1)
                    average_moment(p, moments_[moment], contributed);
            std::map<int, double> shares;
            for (int64_t i = 0; i < p.count() && rule.keeps_anchor; ++i) {
                double mean = 0;
                if (i % row_size(p) == 0) shares = weights(p, i, contributed);
                for (const auto& [group, weight] : shares)
                    mean += weight * local_[group][p.name][i];
                double &anchor = anchor_[p.name][i], &m = momentum_[p.name][i];
                if (rule.kind == OuterKind::nesterov) {
                    m = rule.momentum * m + anchor - mean;
                    anchor -= rule.lr * (rule.momentum * m + (anchor - mean));
                } else {
                    anchor = mean;
                }
                for (int group : p.owners) local_[group][p.name][i] = anchor;
            }
            for (int group : p.owners) {
                std::ranges::fill(counted_[group][p.name], 0.0);
                std::ranges::fill(counted_by_row_[group][p.name], 0.0);
            }
        }
    }

    // Of the local values as they are: before round().
    ByClass cosines(const std::vector<bool>& contributed, const Classes& classes) const {
        ByClass means;
        for (size_t cls = 0; cls < 3; ++cls) {
            if (!classes[cls]) continue;
            std::vector<double> found;
            for (int g = 0; g < std::ssize(contributed); ++g)
                for (int h = 0; h < g; ++h) {
                    if (!contributed[g] || !contributed[h]) continue;
                    double dot = 0, gg = 0, hh = 0;
                    for (const Parameter& p : all_) {
                        const OuterRule rule =
                            outer_rule(config_.federation, p.cls, p.owners.size());
                        if (static_cast<size_t>(p.cls) != cls || !rule.keeps_anchor) continue;
                        if (!local_.at(g).contains(p.name) || !local_.at(h).contains(p.name))
                            continue;
                        for (int64_t i = 0; i < p.count(); ++i) {
                            const double a = anchor_.at(p.name)[i];
                            const double x = a - local_.at(g).at(p.name)[i];
                            const double y = a - local_.at(h).at(p.name)[i];
                            dot += x * y;
                            gg += x * x;
                            hh += y * y;
                        }
                    }
                    if (gg > 0 && hh > 0) found.push_back(dot / std::sqrt(gg * hh));
                }
            double sum = 0;
            for (double x : found) sum += x;
            if (!found.empty()) means[cls] = sum / std::ssize(found);
        }
        return means;
    }

    const std::vector<double>& local(int group, const std::string& name) const {
        return local_.at(group).at(name);
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
    // The expert that an element of a router belongs to.
    int row(const Parameter& p, int64_t i) const { return static_cast<int>(i / row_size(p)); }
    int64_t row_size(const Parameter& p) const {
        return p.cls == ParamClass::router ? p.count() / config_.model.moe.n_experts : p.count();
    }

    // Of the contributions to an element and those of its row, by group.
    std::map<int, double> weights(const Parameter& p, int64_t i,
                                  const std::vector<bool>& contributed) {
        const FederationConfig& federation = config_.federation;
        std::map<int, double> found;
        auto* amounts = &counted_;
        if (p.cls == ParamClass::router && federation.router_average == RouterAverage::owners) {
            amounts = &counted_by_row_;
            for (int group : config_.placement().owners(p.layer, row(p, i)))
                if (contributed[group]) found[group] = 0;
        }
        if (found.empty()) {
            amounts = &counted_;
            for (int group : p.owners)
                if (contributed[group]) found[group] = 0;
        }
        double sum = 0;
        if (federation.weights == WeightsKind::tokens)
            for (auto& [group, weight] : found) sum += weight = (*amounts)[group][p.name][i];
        for (auto& [group, weight] : found) weight = sum > 0 ? weight / sum : 1.0 / found.size();
        return found;
    }

    using ByGroup = std::map<int, std::map<std::string, std::vector<double>>>;
    void average_moment(const Parameter& p, ByGroup& values, const std::vector<bool>& contributed) {
        std::map<int, double> shares;
        for (int64_t i = 0; i < p.count(); ++i) {
            double mean = 0;
            if (i % row_size(p) == 0) shares = weights(p, i, contributed);
            for (const auto& [group, weight] : shares) mean += weight * values[group][p.name][i];
            for (int group : p.owners) values[group][p.name][i] = mean;
        }
    }

    TinyConfig config_;
    std::vector<Parameter> all_;
    std::map<std::string, std::vector<double>> anchor_, momentum_;
    ByGroup local_;
    std::array<ByGroup, kMoments> moments_;
    // By element, since its parameter was last exchanged: tokens, of an expert its choices; the
    // choices of a router's row.
    ByGroup counted_, counted_by_row_;
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

// Bytes of all values of a class with at least two owners, times 2 (n - 1).
inline int64_t value_bytes(const TinyConfig& config, ParamClass cls) {
    int64_t bytes = 0;
    for (const Parameter& p : config.parameters())
        if (p.cls == cls) bytes += 2 * (std::ssize(p.owners) - 1) * 4 * p.count();
    return bytes;
}

// With the hash of every message.
inline int64_t expected_bytes(const TinyConfig& config, ParamClass cls) {
    int64_t bytes = value_bytes(config, cls);
    const World world(config.topology, 0, config.topology.n_ranks());
    const Placement placement = config.placement();
    const std::vector<Parameter> all = config.parameters();
    for (const OwnedSpan& span :
         owned_spans(all, arena_layout(all, placement, world), placement, world))
        if (span.cls == cls)
            bytes += 2 * (span.n_owners() - 1) * 8 *
                     std::min<int64_t>(span.size, span.lanes * span.n_owners());
    return bytes;
}

}  // namespace fomoe
