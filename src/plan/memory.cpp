#include "plan/memory.h"

#include <algorithm>
#include <cmath>

#include "federation/participants.h"
#include "ops/scratch.h"

namespace fomoe {
namespace {

// What a balanced routing brings to a rank of a micro-batch.
struct Routed {
    double rows;     // token rows that its experts work on
    double choices;  // (token, expert) pairs
    double sent;     // rows that leave for other ranks and itself
};
Routed balanced(const MoeConfig& moe, const BatchShape& shape) {
    const double N = static_cast<double>(shape.tokens()), EP = shape.expert_parallel;
    const double K = moe.top_k, here = static_cast<double>(shape.shard_experts) / moe.n_experts;
    const double choices = N * EP * K * here;
    if (EP == 1) return {.rows = N, .choices = choices, .sent = 0};
    const double to_one_rank = N * (1 - std::pow(1 - here, K));
    return {.rows = EP * to_one_rank, .choices = choices, .sent = EP * to_one_rank};
}

// Buffers sized for the worst routing are touched only as far as rows come. Returns the part of
// their bytes that a balanced routing leaves untouched, of a lane.
int64_t untouched_bytes(const ModelConfig& model, const BatchShape& shape) {
    const MoeConfig& moe = model.moe;
    const double N = static_cast<double>(shape.tokens()), EP = shape.expert_parallel;
    const double K = moe.top_k, D = model.d_model;
    const double C = size_of(shape.dtype), U = moe.expert == ExpertKind::swiglu ? 2 : 1;
    const double layers = model.n_layers - moe.first_dense_layers;
    const Routed used = balanced(moe, shape);

    const double choices = static_cast<double>(shape.choices(moe));
    // With EP = 1 in bf16 all choices that there could be are widened and rounded.
    const double hidden = shape.dtype == DType::f32 || EP > 1 ? used.choices : choices;
    double bytes = layers * (std::max(0.0, choices - hidden) * U * moe.d_expert * C +
                             std::max(0.0, choices - used.choices) * 4);
    if (EP == 1) return static_cast<int64_t>(bytes);
    const double rows = std::max(0.0, static_cast<double>(shape.rows()) - used.rows);
    const double sent = N * std::min(K, EP) - used.sent;
    bytes += layers * (rows * (D * C + 2 * K * 4) + sent * 4);
    bytes += rows * (2 * D * C + K * 4) + sent * (D * C + 2 * K * 4);
    return static_cast<int64_t>(bytes);
}

int64_t resident_activations(const ModelConfig& model, const BatchShape& shape, int threads) {
    const int64_t all = Transformer::activation_bytes(model, shape);
    return threads > 0 ? all - shape.lanes * untouched_bytes(model, shape.lane()) : all;
}

// The longest stretch of the arena that experts of a layer lie in.
int64_t longest_stretch(const ArenaLayout& layout, int n_layers) {
    std::vector<Range> stretch(n_layers, {INT64_MAX, 0});
    for (const Parameter& p : layout.parameters) {
        if (p.cls != ParamClass::expert) continue;
        Range& own = stretch[p.layer];
        own = {std::min(own.begin, p.offset), std::max(own.end, p.offset + p.count())};
    }
    int64_t longest = 0;
    for (const Range& own : stretch) longest = std::max(longest, own.end - own.begin);
    return longest;
}

// f32 of all bf16 operands of one op, of the one with the most.
int64_t widened_bytes(const ModelConfig& model, const BatchShape& shape,
                      const ArenaLayout& layout) {
    if (shape.dtype == DType::f32) return 0;
    const MoeConfig& moe = model.moe;
    const int64_t N = shape.tokens(), D = model.d_model, V = model.vocab_size;
    const int64_t A = int64_t{model.n_heads} * model.head_size();
    const int64_t W = A + 2 * int64_t{model.n_kv_heads} * model.head_size();
    const int64_t U = moe.expert == ExpertKind::swiglu ? 2 : 1;
    const int64_t F = std::max<int64_t>(int64_t{moe.n_shared_experts} * moe.d_expert,
                                        moe.first_dense_layers ? moe.d_dense : 0);
    const auto linear_backward = [&](int64_t I, int64_t O) { return 2 * N * I + N * O + O * I; };
    const int64_t rows = static_cast<int64_t>(balanced(moe, shape).rows);
    const int64_t choices = shape.expert_parallel > 1
                                ? static_cast<int64_t>(balanced(moe, shape).choices)
                                : rows * std::min(moe.top_k, shape.shard_experts);
    const bool routed = moe.first_dense_layers < model.n_layers;
    const int64_t experts =
        routed ? 3 * rows * D + choices * U * moe.d_expert + longest_stretch(layout, model.n_layers)
               : 0;
    return 4 * std::max({4 * N * D, 2 * N * D + V * D, linear_backward(D, W), linear_backward(A, D),
                         2 * N * (W + A), F > 0 ? linear_backward(D, U * F) : 0,
                         F > 0 ? linear_backward(F, D) : 0, N * F * (2 * U + 1), experts});
}

int64_t scratch_bytes(const ModelConfig& model, const BatchShape& shape, bool frozen, int threads) {
    const MoeConfig& moe = model.moe;
    const Routed used = balanced(moe, shape);
    const Activation activation =
        moe.expert == ExpertKind::swiglu ? Activation::swiglu : Activation::silu;
    return std::max(
        cpu_cross_entropy_scratch(shape.tokens(), model.d_model, model.vocab_size, threads),
        cpu_experts_scratch(static_cast<int64_t>(used.rows), moe.top_k,
                            static_cast<int64_t>(used.choices), model.d_model, moe.d_expert,
                            activation, frozen, threads));
}

}  // namespace

MemoryPlan memory_plan(const Config& config, const World& world, const ArenaLayout& layout,
                       const FrozenLayout* frozen, int threads, int64_t outer) {
    const BatchShape shape = Transformer::training_shape(config, layout, world, frozen);
    const World::Group& group = world.own();
    const int64_t dense_slice = layout.dense.size / group.ranks;
    const int64_t trained = layout.trains_experts() ? layout.expert.size : 0;
    const int64_t expert_slice = trained / (group.ranks / group.expert_parallel);
    MemoryPlan plan;
    plan.weights = layout.size() * 4;
    if (shape.dtype == DType::bf16) plan.rounded = layout.size() * size_of(DType::bf16);
    plan.gradients = (layout.dense.size + trained) * 4;
    plan.moments = (dense_slice + expert_slice) * 8;
    plan.activations = resident_activations(config.model, shape, threads);
    plan.copies = frozen ? frozen->size * size_of(DType::bf16) : 0;
    if (threads > 0)
        plan.scratch = scratch_bytes(config.model, shape.lane(), plan.copies > 0, threads) +
                       widened_bytes(config.model, shape.lane(), layout);
    plan.outer = outer;
    plan.expert_state = (layout.expert.size + trained) * 4 + expert_slice * 8;
    return plan;
}

int64_t evaluation_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout& copies, int threads) {
    const FederationConfig& federation = config.federation;
    const BatchShape shape = Transformer::training_shape(config, layout, world, &copies);
    int64_t bytes = resident_activations(config.model, shape, threads);
    if (federation.absent != AbsentPolicy::proxy || federation.refresh > 1 ||
        federation.reject_above > 0 || !one_period(federation))
        bytes += copies.size * size_of(DType::bf16);
    if (!one_period(federation))
        bytes += layout.size() *
                 (size_of(DType::f32) + (shape.dtype == DType::bf16 ? size_of(DType::bf16) : 0));
    return bytes;
}

}  // namespace fomoe
