#include "plan/memory.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/pieces.h"
#include "federation/outer_optimizer.h"
#include "federation/participants.h"
#include "ops/backend.h"
#include "ops/scratch.h"

namespace fomoe {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

// The experts among which a token's choices fall: where absent ones are not even chosen, those of
// its group.
int candidates(const Config& config, const BatchShape& shape) {
    const int all = config.model.moe.n_experts;
    if (config.federation.absent != AbsentPolicy::reroute) return all;
    return std::clamp(shape.shard_experts * shape.expert_parallel, 1, all);
}

// `among`: the experts that a token's choices fall on.
Routed even(const MoeConfig& moe, const BatchShape& shape, int among) {
    const double N = static_cast<double>(shape.tokens()), EP = shape.expert_parallel;
    const double K = moe.top_k;
    const double choices = N * EP * K * std::min(1.0, double(shape.shard_experts) / among);
    if (EP == 1) return {.rows = N, .choices = choices, .sent = 0};
    // A token's K choices are different experts.
    double elsewhere = 1;
    for (int k = 0; k < moe.top_k; ++k)
        elsewhere *= std::max(0.0, double(among - shape.shard_experts - k) / (among - k));
    const double rows = EP * N * (1 - elsewhere);
    return {.rows = rows, .choices = choices, .sent = rows};
}

// Addresses of a layout whose memory nobody touches.
class NoMemory final : public Memory {
public:
    static constexpr int64_t kBegin = int64_t{1} << 30;
    void* allocate(int64_t, std::string_view) override { return reinterpret_cast<void*>(kBegin); }
    void release(void*) override {}
};

// Calls f(tensor, its bytes in use) for all that is as long as what comes to the experts, or leaves
// for them, in the activations of a lane.
template <class F>
void for_each_dispatched(const Activations& lane, const Routed& use, const F& f) {
    const auto rows = [&](const Tensor& tensor, double n) {
        if (tensor.count() == 0 || !tensor.data) return;
        const double row = static_cast<double>(tensor.bytes()) / tensor.shape[0];
        f(tensor, std::min<int64_t>(static_cast<int64_t>(n * row), tensor.bytes()));
    };
    for (const LayerActivations& layer : lane.layers) {
        rows(layer.hidden, use.choices);
        rows(layer.choice, use.choices);
        rows(layer.send_token, use.sent);
        for (const Tensor* row : {&layer.row_x, &layer.row_gate, &layer.row_slot})
            rows(*row, use.rows);
    }
    for (const Tensor* sent : {&lane.send_x, &lane.send_gate, &lane.send_slot})
        rows(*sent, use.sent);
    for (const Tensor* row : {&lane.row_y, &lane.row_dy, &lane.row_dgate}) rows(*row, use.rows);
}

std::vector<Activations> laid_out(const ModelConfig& model, const BatchShape& shape) {
    NoMemory memory;
    Arena arena(memory, Transformer::activation_bytes(model, shape));
    std::vector<Activations> lanes;
    for (int i = 0; i < shape.lanes; ++i)
        lanes.push_back(lay_out_activations(model, shape.lane(), arena));
    return lanes;
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// What the CPU backend rounds an arena up to: large ones to huge pages.
int64_t page_of(int64_t arena) { return arena >= 2 * kHugePage ? kHugePage : 4096; }

// On the CPU, buffers sized for the worst routing take memory only as far as rows come, page by
// page.
int64_t resident_activations(const ModelConfig& model, const BatchShape& shape, int among,
                             int threads) {
    const int64_t all = Transformer::activation_bytes(model, shape);
    if (threads == 0) return all;
    const int64_t page = page_of(all);
    const Routed use = even(model.moe, shape.lane(), among);
    int64_t untouched = 0;
    for (const Activations& lane : laid_out(model, shape))
        for_each_dispatched(lane, use, [&](const Tensor& tensor, int64_t used) {
            const int64_t begin = reinterpret_cast<int64_t>(tensor.data) - NoMemory::kBegin;
            const int64_t first = round_up(begin + used, page);
            const int64_t end = (begin + tensor.bytes()) / page * page;
            untouched += std::max<int64_t>(0, end - first);
        });
    return all - untouched;
}

int64_t scratch_bytes(const ModelConfig& model, const BatchShape& shape, int among, bool frozen,
                      int threads) {
    const MoeConfig& moe = model.moe;
    const Routed used = even(moe, shape, among);
    const Activation activation =
        moe.expert == ExpertKind::swiglu ? Activation::swiglu : Activation::silu;
    return std::max({cpu_cross_entropy_scratch(shape.tokens(), model.d_model, model.vocab_size,
                                               shape.dtype, threads),
                     cpu_attention_scratch(shape.seq_len, shape.sequences, model.n_kv_heads,
                                           model.head_size(), threads),
                     cpu_experts_scratch(static_cast<int64_t>(used.rows), moe.top_k,
                                         static_cast<int64_t>(used.choices), model.d_model,
                                         moe.d_expert, activation, shape.dtype, frozen, threads)});
}

}  // namespace

int64_t outer_bytes(const FederationConfig& federation, const std::vector<OwnedSpan>& spans,
                    const ArenaLayout& layout) {
    int64_t values = 0, wire = 0, lanes = 0, averaged = 0;
    for (const OwnedSpan& span : spans) {
        averaged += span.n_owners() > 1;
        if (span.owner < 0 || span.lane() < 0) continue;
        const OuterRule rule = outer_rule(federation, span.cls, span.n_owners());
        if (!rule.keeps_anchor) continue;
        const int64_t lane = span.lane_range(span.lane()).size();
        const int64_t chunk = span.chunk(span.lane(), span.owner).size();
        values += 2 * (lane + (rule.keeps_momentum() ? chunk : 0));
        // Of all owners on their way out and in, and once more as values beside their average.
        const int64_t n = span.n_owners(), fragment = span.fragment(span.lane());
        if (n > 1) wire = std::max(wire, (3 * n + 1) * std::min(fragment, lane));
        if (n > 1) lanes += lane;
    }
    const bool moments = federation.inner_state == InnerState::average && averaged > 0;
    return 4 * (values + wire + (moments ? layout.size() + kMoments * lanes : 0));
}

MemoryPlan memory_plan(const Config& config, const World& world, const ArenaLayout& layout,
                       const FrozenLayout* frozen, int threads, int64_t outer) {
    const BatchShape shape = Transformer::training_shape(config, layout, world, frozen);
    const World::Group& group = world.own();
    const int64_t dense_slice = layout.dense.size / group.ranks;
    const int64_t trained = layout.trains_experts() ? layout.expert.size : 0;
    const int64_t expert_slice = trained / (group.ranks / group.expert_parallel);
    const int among = candidates(config, shape);
    MemoryPlan plan;
    plan.weights = layout.size() * 4;
    if (shape.dtype == DType::bf16) plan.rounded = layout.size() * size_of(DType::bf16);
    plan.gradients = (layout.dense.size + trained) * 4;
    plan.moments = (dense_slice + expert_slice) * 8;
    plan.activations = resident_activations(config.model, shape, among, threads);
    plan.copies = frozen ? frozen->size * size_of(DType::bf16) : 0;
    if (threads > 0)
        plan.scratch = scratch_bytes(config.model, shape.lane(), among, plan.copies > 0, threads);
    plan.outer = outer;
    if (threads > 0)
        for (int64_t arena :
             {plan.weights + plan.rounded, plan.gradients, plan.moments, plan.copies})
            plan.pages += round_up(arena, page_of(arena)) - arena;
    plan.expert_state = (layout.expert.size + trained) * 4 + expert_slice * 8;
    return plan;
}

int64_t snapshot_bytes(const Config& config, const FederationConfig& federation, const World& world,
                       const Placement& placement, const ArenaLayout& layout,
                       const std::vector<OwnedSpan>& spans, const FrozenLayout* frozen) {
    if (!config.checkpoint.writes_behind()) return 0;
    const World::Group& own = world.own();
    int64_t values = 0;
    for (const OwnedSpan& span : spans) {
        if (span.owner < 0 || span.lane() < 0) continue;
        const OuterRule rule = outer_rule(federation, span.cls, span.n_owners());
        const Range part =
            rule.keeps_anchor ? span.chunk(span.lane(), span.owner) : span.lane_range(span.lane());
        values += part.size() * (rule.keeps_momentum() ? 2 : 1);
    }
    for (const Parameter& p : layout.parameters)
        values += share_in_group(p, placement, world).size();
    const int64_t trained = layout.trains_experts() ? layout.expert.size : 0;
    values += 2 * (layout.dense.size / own.ranks + trained / (own.ranks / own.expert_parallel));
    const int64_t copies = frozen ? frozen->size / (own.ranks / own.expert_parallel) : 0;
    return values * size_of(DType::f32) + copies * size_of(DType::bf16);
}

int64_t evaluation_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout& copies, int threads) {
    const FederationConfig& federation = config.federation;
    const BatchShape shape = Transformer::training_shape(config, layout, world, &copies);
    int64_t bytes = resident_activations(config.model, shape, candidates(config, shape), threads);
    if (federation.absent != AbsentPolicy::proxy || federation.refresh > 1 ||
        federation.reject_above > 0 || !one_period(federation))
        bytes += copies.size * size_of(DType::bf16);
    if (!one_period(federation))
        bytes += layout.size() *
                 (size_of(DType::f32) + (shape.dtype == DType::bf16 ? size_of(DType::bf16) : 0));
    return bytes;
}

Routed even_routing(const Config& config, const World& world, const ArenaLayout& layout,
                    const FrozenLayout* frozen) {
    const BatchShape shape = Transformer::training_shape(config, layout, world, frozen);
    return even(config.model.moe, shape.lane(), candidates(config, shape));
}

DispatchBytes dispatch_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                             const FrozenLayout* frozen) {
    BatchShape shape = Transformer::training_shape(config, layout, world, frozen);
    const Routed use = even_routing(config, world, layout, frozen);
    DispatchBytes bytes;
    const auto add = [&](int64_t DispatchBytes::*room) {
        for (const Activations& lane : laid_out(config.model, shape))
            for_each_dispatched(lane, use, [&](const Tensor& tensor, int64_t used) {
                bytes.*room += tensor.bytes();
                if (room == &DispatchBytes::planned) bytes.even += used;
            });
    };
    add(&DispatchBytes::planned);
    shape.row_capacity = shape.choice_capacity = 0;
    add(&DispatchBytes::worst);
    return bytes;
}

int64_t recomputed_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout* frozen) {
    const BatchShape shape = Transformer::training_shape(config, layout, world, frozen);
    ModelConfig one = config.model;
    one.n_layers = 1;
    one.moe.first_dense_layers = std::min(1, config.model.moe.first_dense_layers);
    int64_t largest = Transformer::activation_bytes(one, shape);
    one.moe.first_dense_layers = 0;
    if (config.model.moe.first_dense_layers < config.model.n_layers)
        largest = std::max(largest, Transformer::activation_bytes(one, shape));
    return largest + (config.model.n_layers - 1) * shape.tokens() * config.model.d_model *
                         size_of(shape.dtype);
}

int64_t device_scratch_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                             const FrozenLayout* frozen) {
    constexpr int64_t kLogits = int64_t{256} << 20;  // of a chunk, at most, f32
    const MoeConfig& moe = config.model.moe;
    const BatchShape shape = Transformer::training_shape(config, layout, world, frozen).lane();
    const int64_t C = size_of(shape.dtype), U = moe.expert == ExpertKind::swiglu ? 2 : 1;
    const int64_t logits = std::min(4 * shape.tokens() * config.model.vocab_size, kLogits);
    const int64_t choices =
        static_cast<int64_t>(even_routing(config, world, layout, frozen).choices);
    const bool routed = moe.first_dense_layers < config.model.n_layers;
    const int64_t experts =
        choices * ((U + 1) * moe.d_expert * C + 4 * int64_t{config.model.d_model});
    return std::max(logits, routed ? experts : 0);
}

}  // namespace fomoe
