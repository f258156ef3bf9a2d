// One rank that trains a config's first group on random tokens, without files, and what its steps
// took.
#pragma once

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "base/timer.h"
#include "ops/trace_backend.h"
#include "train/step.h"

namespace fomoe {

class StepRig {
public:
    // The ranks of every group are taken as one. config.model.vocab_size must be resolved.
    StepRig(const Config& config, Backend& cpu)
        : config_(one_rank_each(config)),
          backend_(cpu),
          world_(config_.topology, 0, static_cast<int>(config_.topology.groups.size())),
          placement_(config_.federation, config_.topology, config_.model.moe.n_experts),
          all_(all_parameters(config_.model, placement_)),
          layout_(arena_layout(all_, placement_, world_)),
          copies_(frozen_layout(all_, placement_, world_)),
          alone_(make_self_communicator()),
          ranks_(*alone_, world_),
          step_(config_, world_, placement_, layout_, backend_, ranks_, frozen()) {}

    // The first step touches memory for the first time and does not count.
    void run() {
        const Batch batch = random_batch();
        if (steps_ == 1) backend_.reset();
        const Timer timer;
        last_ = step_.run(++steps_, batch, false);
        if (steps_ == 1) return;
        seconds_.push_back(timer.seconds());
        executed_ += last_.executed_choices;
    }

    int timed_steps() const { return static_cast<int>(seconds_.size()); }
    double median_seconds() const {
        std::vector<double> sorted = seconds_;
        std::ranges::sort(sorted);
        return sorted[sorted.size() / 2];
    }
    double fastest_seconds() const { return *std::ranges::min_element(seconds_); }
    double executed_choices() const { return executed_ / timed_steps(); }  // of a step
    double tokens() const { return double(config_.train.batch) * config_.data.seq_len; }
    const StepResult& last() const { return last_; }
    std::vector<TraceRow> trace() const { return backend_.report(); }

    const Config& config() const { return config_; }
    const World& world() const { return world_; }
    const ArenaLayout& layout() const { return layout_; }
    const FrozenLayout* frozen() const {
        return config_.federation.absent == AbsentPolicy::proxy ? &copies_ : nullptr;
    }
    Tensor gradients() const { return step_.gradients(); }

private:
    static Config one_rank_each(Config config) {
        for (GroupConfig& group : config.topology.groups) group.ranks = group.expert_parallel = 1;
        return config;
    }
    Batch random_batch() const {
        Batch batch;
        batch.n_sequences = config_.train.batch;
        const int64_t T = config_.data.seq_len, N = batch.n_sequences * T;
        const uint64_t key = random_key(config_.seed, "step_rig");
        auto token = [&](int64_t i) {
            return static_cast<int32_t>(random_bits(key, steps_ * (N + 1) + i) %
                                        config_.model.vocab_size);
        };
        for (int64_t i = 0; i < N; ++i) {
            batch.tokens.push_back(token(i));
            batch.targets.push_back(token(i + 1));
            batch.positions.push_back(static_cast<int32_t>(i % T));
        }
        if (config_.data.document_mask) batch.begin.assign(N, 0);
        batch.valid_tokens = batch.group_valid_tokens = N;
        return batch;
    }

    const Config config_;
    TraceBackend backend_;
    World world_;
    Placement placement_;
    std::vector<Parameter> all_;
    ArenaLayout layout_;
    FrozenLayout copies_;
    std::unique_ptr<Communicator> alone_;
    GroupCommunicators ranks_;
    InnerStep step_;

    int64_t steps_ = 0;
    std::vector<double> seconds_;
    double executed_ = 0;
    StepResult last_;
};

}  // namespace fomoe
