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
// their bytes that a balanced routing leaves untouched.
int64_t untouched_bytes(const ModelConfig& model, const BatchShape& shape) {
    const MoeConfig& moe = model.moe;
    const double N = static_cast<double>(shape.tokens()), EP = shape.expert_parallel;
    const double K = moe.top_k, R = shape.shard_experts, D = model.d_model;
    const double U = moe.expert == ExpertKind::swiglu ? 2 : 1;
    const double layers = model.n_layers - moe.first_dense_layers;
    const Routed used = balanced(moe, shape);

    const double rows_bound = EP == 1 ? N : N * EP;
    double bytes =
        layers * (rows_bound * std::min(K, R) - used.choices) * (U * moe.d_expert + 1) * 4;
    if (EP == 1) return static_cast<int64_t>(bytes);
    const double rows = rows_bound - used.rows, sent = N * std::min(K, EP) - used.sent;
    bytes += layers * (rows * (D + 2 * K) + sent) * 4;
    bytes += (rows * (2 * D + K) + sent * (D + 2 * K)) * 4;
    return static_cast<int64_t>(bytes);
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
    const BatchShape shape =
        Transformer::batch_shape(config.model, layout, world, config.train.micro_batch,
                                 config.data.seq_len, config.data.document_mask, frozen);
    const World::Group& group = world.own();
    const int64_t dense_slice = layout.dense.size / group.ranks;
    const int64_t trained = layout.trains_experts() ? layout.expert.size : 0;
    const int64_t expert_slice = trained / (group.ranks / group.expert_parallel);
    MemoryPlan plan;
    plan.weights = layout.size() * 4;
    plan.gradients = (layout.dense.size + trained) * 4;
    plan.moments = (dense_slice + expert_slice) * 8;
    plan.activations =
        Transformer::activation_bytes(config.model, shape) - untouched_bytes(config.model, shape);
    plan.copies = frozen ? frozen->size * size_of(DType::bf16) : 0;
    plan.scratch = scratch_bytes(config.model, shape, plan.copies > 0, threads);
    plan.outer = outer;
    plan.expert_state = (layout.expert.size + trained) * 4 + expert_slice * 8;
    return plan;
}

int64_t evaluation_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout& copies) {
    const FederationConfig& federation = config.federation;
    const BatchShape shape =
        Transformer::batch_shape(config.model, layout, world, config.train.micro_batch,
                                 config.data.seq_len, config.data.document_mask, &copies);
    int64_t bytes =
        Transformer::activation_bytes(config.model, shape) - untouched_bytes(config.model, shape);
    if (federation.absent != AbsentPolicy::proxy || federation.refresh > 1 ||
        federation.reject_above > 0 || !one_period(federation))
        bytes += copies.size * size_of(DType::bf16);
    if (!one_period(federation)) bytes += layout.size() * size_of(DType::f32);
    return bytes;
}

}  // namespace fomoe
