// One inner step of a group: micro-batches, gradients summed over its ranks, clipping, AdamW.
#pragma once

#include "data/loader.h"
#include "device/device.h"
#include "model/frozen.h"
#include "model/transformer.h"
#include "optim/inner_optimizer.h"
#include "train/bad_steps.h"

namespace fomoe {

// The same ranks twice: for tensors in memory of the host, and for those of the backend.
struct Ranks {
    std::unique_ptr<Communicator> host;
    std::unique_ptr<Communicator> device;  // null: `host` serves both

    Communicator& on_device() const { return device ? *device : *host; }
};

// The communicators of a rank inside its group.
struct GroupCommunicators {
    Ranks group;            // P ranks
    Ranks expert_parallel;  // EP ranks: tokens travel
    Ranks expert_replicas;  // P / EP ranks: the same experts

    // Collective over the job's communicator.
    GroupCommunicators(Communicator& job, const World& world, const Connect& connect = {});
};

// Figures of a group's step, equal on all its ranks.
struct StepResult {
    double loss = 0;       // mean over valid tokens, nats
    double aux = 0;        // balancing loss, mean over the MoE layers, without its weight
    double z = 0;          // mean of logsumexp^2 over valid tokens and MoE layers
    double affinity = 0;   // mean of -log(router's mass on the residents), likewise
    double grad_norm = 0;  // before clipping
    double lr = 0;
    int64_t valid_tokens = 0;
    double imbalance = 0;         // largest over mean load of the experts that can be chosen, mean
                                  // over the MoE layers
    double skipped = 0;           // share of choices that are not executed
    double served = 0;            // share of choices that frozen copies serve
    double executed_choices = 0;  // (token, expert) pairs, over all layers, those served included
    bool stop = false;            // some rank of the group was asked to stop
    std::string bad;              // why the step has changed nothing; else empty
    // Where the step had to be done again since tokens had no room at their experts: the most that
    // came to a rank in a layer. Else 0.
    DispatchNeed room;
};

// What the weights of a new InnerStep are. `zeros` is for those who never read them.
enum class StartValues { drawn, zeros };

class InnerStep {
public:
    // Start values of the weights and of the frozen copies are those of config.seed. `frozen` is
    // given under `proxy`.
    InnerStep(const Config& config, const World& world, const Placement& placement,
              const ArenaLayout& layout, Backend& backend, GroupCommunicators& ranks,
              const FrozenLayout* frozen = nullptr, StartValues start = StartValues::drawn);

    // Step `step` (from 1) on this rank's sequences of the group's batch. A bad step, by
    // train.bad_step, is found on every rank and changes nothing: neither weights nor moments, nor
    // the count of updates that corrects their bias, nor load, selection bias or the parameters'
    // copies. Throws Error(diverged) as BadSteps does. With EP = 1 the host waits for the device
    // once, at the end.
    StepResult run(int64_t step, const Batch& batch, bool stop_requested);

    // This rank's sequences of a group's batch.
    static Range sequences(const Config& config, const World& world);

    WeightArena& weights() { return weights_; }
    Tensor gradients() const { return gradients_; }  // after run(): summed, at the own slices
    // The frozen copies (frozen->size) bf16, or empty: as forward passes read them, and where the
    // host changes them, which reaches the device with upload_copies().
    Tensor copies() const { return copies_; }
    Tensor copies_on_host();
    void upload_copies();
    InnerOptimizer& optimizer() { return optimizer_; }
    Transformer& transformer() { return transformer_; }

    // The last step's expert choices (L, E) of the group: state of the balancing loss.
    const std::vector<float>& load() const { return load_; }
    void set_load(const std::vector<float>& load);
    BadSteps& bad_steps() { return bad_steps_; }

    // With aux_scope `federation`: the choices (L, E) that the balancing loss goes by until the
    // next exchange of the router. All 0 in a layer: as if they had been even.
    void set_exchanged(std::span<const int64_t> choices);
    // Experts that can be chosen and have less than the mean of these choices (L, E) become
    // likelier to be chosen (arXiv 2408.15664). A step does so itself unless aux_scope is
    // `federation`.
    void update_selection_bias(std::span<const int64_t> choices);

private:
    void lay_out_report();
    void accumulate(const Batch& batch);
    void reduce_gradients();
    void reduce_buckets(int layer);
    Communicator& sharers(const ArenaBucket& bucket);
    void sum_up(bool stop_requested);
    std::vector<double> read_report();
    DispatchNeed make_room();
    void gather_weights();
    void move_selection_bias(std::span<const int64_t> choices, std::span<float> bias);
    // The experts that tokens of the group may choose.
    std::vector<int> candidates(int layer) const;
    void describe_load(StepResult& result) const;
    void set_fractions(std::span<const int64_t> choices);

    const Config& config_;
    const World& world_;
    const ArenaLayout& layout_;
    const bool trains_experts_;  // some that this rank holds
    Backend& backend_;
    GroupCommunicators& ranks_;
    std::vector<bool> resident_;  // (L, E) held by the group

    WeightArena weights_;
    Arena gradient_memory_, copy_memory_, report_memory_;
    Tensor gradients_;
    std::vector<Range> untrained_;     // of the dense section of the arena
    Tensor copies_;                    // (frozen->size) bf16
    std::vector<bf16> copies_mirror_;  // of them, where the host cannot reach the device
    // What the host reads of a step, in one piece: sums, load, bias.
    Tensor report_;      // (n) f32
    Tensor sums_;        // (kSums) f64
    Tensor load_sums_;   // (L, E)
    Tensor bias_;        // (L, E), where a step moves the selection bias
    Tensor grad_scale_;  // (1)
    std::vector<float> report_on_host_;
    InnerOptimizer optimizer_;
    Transformer transformer_;
    std::vector<float> load_;
    BadSteps bad_steps_;
};

}  // namespace fomoe
