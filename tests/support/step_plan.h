// Steps of a group on any number of ranks, for tests of what they may not depend on.
#pragma once

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <mutex>

#include "support/tiny.h"
#include "train/step.h"

namespace fomoe {

// What each rank of a job does: `steps` steps on batches made for its place.
struct Plan {
    Config config;
    int64_t steps = 1;
    std::function<void(InnerStep&, const ArenaLayout&)> prepare = [](auto&, auto&) {};
    std::function<Batch(int64_t step, Range sequences)> batch = {};  // tiny_batch if empty
    int64_t bucket_elements = 500;                                   // several buckets in a section
};

// What the first group's ranks agree on, and what they hold together.
struct Trained {
    std::vector<StepResult> results;        // by step
    std::vector<std::vector<float>> loads;  // by step, (L, E)
    Values gradients, weights;              // after the last step; gradients summed, not clipped
};

inline bool same(const StepResult& a, const StepResult& b) {
    return a.loss == b.loss && a.aux == b.aux && a.z == b.z && a.affinity == b.affinity &&
           a.grad_norm == b.grad_norm && a.lr == b.lr && a.valid_tokens == b.valid_tokens &&
           a.imbalance == b.imbalance && a.skipped == b.skipped && a.served == b.served &&
           a.executed_choices == b.executed_choices && a.stop == b.stop;
}

// Elements [begin, begin + size) of an arena, by parameter; those of other ranks stay as they are.
inline void gather(const ArenaLayout& layout, Tensor arena, int64_t begin, int64_t size,
                   Values& values) {
    for (const Parameter& p : layout.parameters) {
        std::vector<float>& to = values[p.name];
        to.resize(p.count(), std::nanf(""));
        for (int64_t i = std::max(begin, p.offset);
             i < std::min(begin + size, p.offset + p.count()); ++i)
            to[i - p.offset] = arena.as<float>()[i];
    }
}

inline Trained train(const Plan& plan) {
    const Config& config = plan.config;
    const int n_ranks = config.topology.n_ranks();
    const Placement placement = placement_of(config);
    const auto all = all_parameters(config.model, placement);
    const bool copies = config.federation.absent == AbsentPolicy::proxy;
    Trained trained;
    std::mutex mutex;
    int disagreements = 0;  // Catch's checks are for one thread
    run_ranks(n_ranks, [&](Communicator& job) {
        const World world(config.topology, job.rank(), n_ranks);
        const ArenaLayout layout = arena_layout(all, placement, world, plan.bucket_elements);
        const FrozenLayout frozen = frozen_layout(all, placement, world);
        const auto backend = make_cpu_backend(1);
        GroupCommunicators ranks(job, world);
        InnerStep step(config, world, placement, layout, *backend, ranks,
                       copies ? &frozen : nullptr);
        plan.prepare(step, layout);
        const Range own = InnerStep::sequences(config, world);
        for (int64_t s = 1; s <= plan.steps; ++s) {
            const Batch batch = plan.batch ? plan.batch(s, own) : tiny_batch(config, s, own);
            const StepResult result = step.run(s, batch, false);
            if (world.group != 0) continue;
            std::lock_guard lock(mutex);
            if (static_cast<int64_t>(trained.results.size()) < s) {
                trained.results.push_back(result);
                trained.loads.push_back(step.load());
            }
            disagreements += !same(result, trained.results[s - 1]);
            disagreements += step.load() != trained.loads[s - 1];
        }
        if (world.group != 0) return;
        std::lock_guard lock(mutex);
        for (const InnerOptimizer::Slice& slice : step.optimizer().slices())
            gather(layout, step.gradients(), slice.begin, slice.size, trained.gradients);
        for (const Parameter& p : layout.parameters) {
            const float* w = step.weights().values().as<float>() + p.offset;
            const std::vector<float> own_weights(w, w + p.count());
            const auto [known, first] = trained.weights.try_emplace(p.name, own_weights);
            disagreements += known->second != own_weights;
        }
    });
    CHECK(disagreements == 0);
    return trained;
}

inline Plan on_ranks(Plan plan, int ranks, int expert_parallel, int micro_batch) {
    plan.config.topology.groups[0].ranks = ranks;
    plan.config.topology.groups[0].expert_parallel = expert_parallel;
    plan.config.train.micro_batch = micro_batch;
    return plan;
}

struct Split {
    int ranks, expert_parallel, micro_batch;
};

// The same step on one rank per group and on others.
inline void check_same_gradients(const Plan& plan, const Trained& alone,
                                 const std::vector<Split>& splits) {
    for (const Split& split : splits) {
        INFO(split.ranks << " ranks, expert parallel " << split.expert_parallel << ", micro-batch "
                         << split.micro_batch);
        const Trained cut =
            train(on_ranks(plan, split.ranks, split.expert_parallel, split.micro_batch));
        const double error = nmse(cut.gradients, alone.gradients);
        INFO("NMSE of the gradients " << error);
        CHECK(error <= 1e-10);
        CHECK(cut.gradients.size() == alone.gradients.size());
        CHECK(cut.loads == alone.loads);
        CHECK(cut.results[0].loss == Approx(alone.results[0].loss).epsilon(1e-6));
        CHECK(cut.results[0].aux == Approx(alone.results[0].aux).epsilon(1e-6));
        CHECK(cut.results[0].z == Approx(alone.results[0].z).epsilon(1e-6));
        CHECK(cut.results[0].affinity == Approx(alone.results[0].affinity).epsilon(1e-6));
        CHECK(cut.results[0].grad_norm == Approx(alone.results[0].grad_norm).epsilon(1e-5));
        CHECK(cut.results[0].skipped == alone.results[0].skipped);
        CHECK(cut.results[0].served == alone.results[0].served);
        CHECK(cut.results[0].imbalance == alone.results[0].imbalance);
        CHECK(cut.results[0].executed_choices == alone.results[0].executed_choices);
    }
}

inline const std::vector<Split> kSplits = {{1, 1, 1}, {1, 1, 2}, {2, 1, 4}, {2, 2, 4}, {2, 2, 1},
                                           {4, 1, 2}, {4, 2, 2}, {4, 2, 1}, {4, 4, 2}, {4, 4, 1}};

}  // namespace fomoe
