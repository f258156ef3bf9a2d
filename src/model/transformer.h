// The decoder-only transformer: forward and backward of one micro-batch, written by hand.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "model/kv_cache.h"
#include "model/moe_block.h"
#include "model/weight_arena.h"
#include "ops/pinned_memory.h"

namespace fomoe {

// The tokens of a micro-batch in host memory, `sequences` times T of each.
struct TokenBatch {
    std::span<const int32_t> token;
    std::span<const int32_t> target;    // negative: no loss there
    std::span<const int32_t> position;  // within the sequence
    std::span<const int32_t> begin;     // empty without a document mask
    std::span<const int32_t> sequence;  // in the cache, negative: no token; empty without a cache
};

class Transformer {
public:
    // What this rank holds follows from the layout; who is resident from placement and world; what
    // becomes of absent choices, and the affinity loss, from the federation. The communicator has
    // the EP ranks of this rank. Every micro-batch has exactly shape.sequences. With `frozen`, on
    // all ranks of the group, copies serve the choices whose experts the group does not hold: to
    // the router no choice is absent.
    Transformer(const ModelConfig& model, const FederationConfig& federation,
                const ArenaLayout& layout, const Placement& placement, const World& world,
                const BatchShape& shape, Backend& backend, Communicator& expert_parallel,
                const FrozenLayout* frozen = nullptr);

    // The bytes that activations of this shape take.
    static int64_t activation_bytes(const ModelConfig& model, const BatchShape& shape);
    // The shape for a rank of this world, with the experts of its largest layer counted.
    static BatchShape batch_shape(const ModelConfig& model, const ArenaLayout& layout,
                                  const World& world, int sequences, int seq_len,
                                  bool document_mask, const FrozenLayout* frozen = nullptr,
                                  DType dtype = DType::f32);
    // That of a training: its micro-batch in lanes, with the planned room for tokens of others.
    static BatchShape training_shape(const Config& config, const ArenaLayout& layout,
                                     const World& world, const FrozenLayout* frozen = nullptr);

    // The weights (layout.size()) that forward and backward read, and where train() puts gradients,
    // f32, laid out alike; empty for evaluation. Gradients of the dense section's size have no
    // place for those of the experts, which are then not computed. With frozen experts their copies
    // (frozen.size) bf16.
    void bind(const WeightTensors& weights, Tensor gradients, Tensor copies = {});

    // Lets the gradients count as 0 for the next train(): that writes those of the experts, which
    // until then stay what they were.
    void clear_gradients();

    // Forward and backward. Adds, or writes after clear_gradients(), the gradients of
    //   loss_scale * (sum of the tokens' losses) + the balancing terms of the group's step,
    // where loss_scale is 1 / (valid tokens of the group's step). With EP > 1 the host waits once
    // for each lane and layer with experts, else for nothing. Where tokens had no room the
    // gradients have no meaning: see overflowed(). layer_done(l) is called for the last layer
    // first: what has been issued to the compute queue by then adds the last to the gradients of
    // that layer, of those behind it and of the head.
    void train(const TokenBatch& batch, double loss_scale,
               const std::function<void(int layer)>& layer_done = {});

    // Forward only; token_loss (N) host, 0 where there is no target. Returns their sum.
    double evaluate(const TokenBatch& batch, std::span<float> token_loss);

    // Forward only, for chosen_experts().
    void route(const TokenBatch& batch);
    // The experts that each token chose in the last forward pass, (N, K) ids, in a layer with
    // experts; also those that are absent.
    std::vector<int32_t> chosen_experts(int layer) const;

    // The logits (rows, V) of these tokens of the micro-batch, host; or of those of the last
    // forward pass.
    void logits(const TokenBatch& batch, Range rows, std::span<float> out);
    void last_logits(Range rows, std::span<float> out);

    // For a shape that is `cached`, before the first pass: tokens attend to what the cache has of
    // their sequences, and are put into it. Forward only. It outlives its use.
    void use(const KvCache& cache);

    // Of the last forward pass, host: the router's logits (N, E) of a layer with experts, and how
    // many choices of each token (N) were executed, over all layers.
    std::vector<float> router_logits(int layer) const;
    std::vector<int32_t> executed_choices() const;

    // Whether in train() more tokens came to some of the EP ranks than there was room for, the same
    // on all of them. room_needed() is the most that came in a layer since the last make_room(),
    // which takes new memory for activations: of as much, or more. Other passes do so themselves.
    bool overflowed() const;
    DispatchNeed room_needed() const { return need_; }
    void make_room(DispatchNeed room);

    // Sums since the last reset, of this rank: of the tokens' losses in train(); over the forward
    // passes, of the choices of valid tokens by (layer, expert), of the balancing loss sum over
    // layers of E f mass, of logsumexp^2, and of -log(the router's mass on the residents).
    struct Totals {
        std::vector<float> load;  // (L, E)
        double loss = 0, balance = 0, z = 0, affinity = 0;
    };
    Totals totals() const;
    const RoutingTotals& device_totals() const { return totals_; }
    Tensor loss_total() const { return loss_total_; }  // (1) f64, on the device
    void reset_totals();

    // The f of the balancing loss for the next steps, (L, E) shares that sum to 1 in each layer;
    // used with every aux_scope but `sequence`.
    void set_fractions(std::span<const float> fractions);

    // Lets only these experts take part: slots (L, E) in the group, -1 for absent. The default is
    // the placement's; with frozen experts a shard's residents come first, then its frozen ones.
    // With `reroute` at least top_k in every layer with experts.
    void set_residents(std::span<const int32_t> slots);
    const std::vector<int32_t>& default_slots() const { return default_slots_; }

    int64_t tokens() const { return shape_.tokens(); }
    const ModelConfig& model() const { return model_; }

private:
    // A part of the micro-batch with activations of its own.
    using Lane = Activations;

    void allocate();
    void bind_cache();
    void load(const TokenBatch& batch);
    void forward_only(const TokenBatch& batch);
    void forward(const BalanceWeights& balance);
    // Of the tokens that are loaded. Without layer_done, what it issues changes with the others and
    // bindings_ alone.
    void forward_backward(double loss_scale, bool accumulate,
                          const std::function<void(int)>& layer_done);
    void begin_layer(Lane& lane, int l, const BalanceWeights& balance);
    void begin_backward(Lane& lane, double loss_scale);
    void end_backward_layer(Lane& lane, int l, const BalanceWeights& balance);
    MlpLayer mlp(Lane& lane, int l) {
        return {context_, weights_.layers[l], lane.layers[l], lane, routing_[l]};
    }
    // What the lanes have of a layer, one behind the other.
    template <class T>
    std::vector<T> gather(Tensor LayerActivations::*member, int layer) const;

    ModelConfig model_;
    FederationConfig federation_;
    const ArenaLayout& layout_;
    const FrozenLayout* frozen_;
    BatchShape shape_;
    Backend& backend_;
    Communicator& expert_parallel_;

    Arena memory_;  // activations
    std::vector<Lane> lanes_;
    PinnedMemory counts_;  // of rows, by lane and layer
    DispatchNeed need_;
    BlockContext context_;
    Arena tables_;
    std::vector<LayerRouting> routing_;
    std::vector<int32_t> default_slots_;  // (L, E)
    RoutingTotals totals_, totals_before_;
    Tensor loss_total_;  // (1) f64
    Tensor fractions_;   // (L, E), or empty
    Arena logits_memory_;
    Tensor logits_;  // (some rows, V), once they were asked for
    const KvCache* cache_ = nullptr;
    ModelViews weights_, gradients_;
    Tensor dense_gradients_;
    bool cleared_ = false;   // the gradients, since the last backward pass
    uint64_t bindings_ = 0;  // of weights, gradients and residents so far
};

}  // namespace fomoe
