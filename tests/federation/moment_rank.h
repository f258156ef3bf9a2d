// A rank of the tiny federation whose rounds average made-up moments.
#pragma once

#include "federation/tiny_federation.h"

namespace fomoe {

// A moment as a round of local steps leaves it.
inline float local_moment(int64_t round, int group, const std::string& name, int moment,
                          int64_t i) {
    const float x = random_normal(random_key(1000 * round + 10 * group + moment, name), i);
    return moment == 0 ? 0.1f * x : 0.01f * x * x;
}

inline Tensor moment_of(const InnerOptimizer::Slice& slice, int moment) {
    return moment == 0 ? slice.m : slice.v;
}

// Calls f(parameter, element, value) for every moment that the rank keeps.
template <class F>
void for_each_moment(const TinyRank& rank, const InnerOptimizer& optimizer, int moment, F f) {
    for (const Parameter& p : rank.layout.parameters)
        for (const InnerOptimizer::Slice& slice : optimizer.slices())
            for (int64_t i = 0; i < p.count(); ++i) {
                const int64_t at = p.offset + i - slice.begin;
                if (at >= 0 && at < slice.size) f(p, i, moment_of(slice, moment).as<float>()[at]);
            }
}

struct MomentRank : TinyRank {
    MomentRank(const TinyConfig& config, Communicator& job)
        : TinyRank(config, job), optimizer(OptimizerConfig(), layout, world, *backend) {}

    void train_moments(int64_t round) {
        for (int moment = 0; moment < kMoments; ++moment)
            for_each_moment(*this, optimizer, moment, [&](const Parameter& p, int64_t i, float& x) {
                x = local_moment(round, world.group, p.name, moment, i);
            });
    }
    // All moments, to the bit.
    std::vector<float> moments() const {
        std::vector<float> all;
        for (int moment = 0; moment < kMoments; ++moment)
            for_each_moment(*this, optimizer, moment,
                            [&](const Parameter&, int64_t, float x) { all.push_back(x); });
        return all;
    }

    std::unique_ptr<Backend> backend = make_cpu_backend(1);
    InnerOptimizer optimizer;
};

}  // namespace fomoe
