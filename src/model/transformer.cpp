#include "model/transformer.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <numeric>
#include <utility>

#include "base/random.h"
#include "model/attention_block.h"

namespace fomoe {
namespace {

// The slots of a group in a layer, shard by shard: residents, then frozen experts, each ascending.
struct GroupSlots {
    std::vector<int32_t> of;     // (E), -1: absent
    std::vector<int32_t> first;  // (EP + 1), by shard
};
GroupSlots group_slots(const Placement& placement, const World& world, int layer, bool frozen) {
    std::vector<std::vector<int>> kinds{placement.residents(layer, world.group)};
    if (frozen) kinds.push_back(absent_experts(placement, layer, world.group));
    GroupSlots slots{std::vector<int32_t>(placement.n_experts(), -1), {0}};
    int32_t next = 0;
    for (int shard = 0; shard < world.own().expert_parallel; ++shard) {
        for (const std::vector<int>& experts : kinds) {
            const Range own =
                World::shard_slots(world.own(), static_cast<int>(experts.size()), shard);
            for (int64_t i = own.begin; i < own.end; ++i) slots.of[experts[i]] = next++;
        }
        slots.first.push_back(next);
    }
    return slots;
}

int moe_layers(const ModelConfig& model) { return model.n_layers - model.moe.first_dense_layers; }

}  // namespace

Transformer::Transformer(const ModelConfig& model, const FederationConfig& federation,
                         const ArenaLayout& layout, const Placement& placement, const World& world,
                         const BatchShape& shape, Backend& backend, Communicator& expert_parallel,
                         const FrozenLayout* frozen)
    : model_(model),
      federation_(federation),
      layout_(layout),
      frozen_(frozen),
      shape_(shape),
      backend_(backend),
      expert_parallel_(expert_parallel),
      context_{model_, federation_, shape.lane(), backend, expert_parallel} {
    const int64_t L = model_.n_layers, E = model_.moe.n_experts, EP = shape.expert_parallel;
    FOMOE_CHECK(expert_parallel.size() == EP, "the communicator has ", expert_parallel.size(),
                " ranks, the batch shape says ", EP);
    FOMOE_CHECK(shape.sequences % shape.lanes == 0, shape.sequences, " sequences in ", shape.lanes,
                " lanes");
    allocate();

    const bool given = model_.moe.aux_scope != AuxScope::sequence;
    auto lay_out = [&](Arena& arena) {
        routing_.assign(L, {});
        totals_ = {arena.take(DType::f32, Shape(L, E)), arena.take(DType::f64, Shape(3))};
        totals_before_ = {arena.take(DType::f32, Shape(L, E)), arena.take(DType::f64, Shape(3))};
        loss_total_ = arena.take(DType::f64, Shape(1));
        if (given) fractions_ = arena.take(DType::f32, Shape(L, E));
        for (int64_t l = 0; l < L; ++l) {
            LayerRouting& layer = routing_[l];
            layer.resident = arena.take(DType::i32, Shape(E));
            layer.first_slot = arena.take(DType::i32, Shape(EP + 1));
            layer.expert_offset = arena.take(DType::i64, Shape(std::max(1, shape.shard_experts)));
            if (given) layer.fraction = fractions_.slice(l * E, E);
        }
    };
    Arena tape;
    lay_out(tape);
    tables_ = Arena(backend, tape.bytes(), "routing tables");
    lay_out(tables_);

    default_slots_.assign(L * E, -1);
    for (int64_t l = model_.moe.first_dense_layers; l < L; ++l) {
        const GroupSlots own = group_slots(placement, world, static_cast<int>(l), frozen);
        std::ranges::copy(own.of, default_slots_.begin() + l * E);
        backend.copy_from_host(routing_[l].first_slot, own.first.data());
    }
    set_residents(default_slots_);
    if (given) {
        std::vector<float> uniform(L * E, 1.0f / static_cast<float>(E));
        if (federation_.absent == AbsentPolicy::reroute)
            for (int64_t l = 0; l < L; ++l) {
                const auto own = std::span(default_slots_).subspan(l * E, E);
                const auto R = std::ranges::count_if(own, [](int32_t s) { return s >= 0; });
                for (int64_t e = 0; e < E; ++e)
                    uniform[l * E + e] = own[e] < 0 ? 0.0f : 1.0f / static_cast<float>(R);
            }
        set_fractions(uniform);
    }
    reset_totals();
}

void Transformer::allocate() {
    const BatchShape lane = shape_.lane();
    context_.shape = lane;
    memory_ = Arena(backend_, activation_bytes(model_, shape_), "activations");
    for (int i = 0; i < shape_.lanes; ++i)
        lanes_.push_back(lay_out_activations(model_, lane, memory_));
    bind_cache();
    const int64_t EP = shape_.expert_parallel, counts = EP * (2 * EP + 1);
    if (EP == 1) return;
    counts_ = PinnedMemory(backend_, shape_.lanes * model_.n_layers * counts * sizeof(int32_t));
    int32_t* next = counts_.as<int32_t>();
    for (Lane& each : lanes_)
        for (LayerActivations& layer : each.layers) {
            layer.host_counts = next;
            next += counts;
        }
}

void Transformer::bind_cache() {
    if (!cache_) return;
    for (Lane& each : lanes_)
        for (int l = 0; l < model_.n_layers; ++l) each.layers[l].cache = cache_->layer(l);
}

void Transformer::use(const KvCache& cache) {
    FOMOE_CHECK(shape_.cached && shape_.seq_len == 1, "the batch shape has no cache");
    cache_ = &cache;
    bind_cache();
}

bool Transformer::overflowed() const { return !shape_.fits(need_); }

void Transformer::make_room(DispatchNeed room) {
    const auto with_spare = [](int64_t n) { return n + n / 8; };
    if (room.rows > shape_.row_capacity) shape_.row_capacity = with_spare(room.rows);
    if (room.choices > shape_.choice_capacity) shape_.choice_capacity = with_spare(room.choices);
    need_ = {};
    backend_.synchronize();
    lanes_.clear();
    memory_ = {};
    allocate();
}

void Transformer::bind(const WeightTensors& weights, Tensor gradients, Tensor copies) {
    FOMOE_CHECK(bool(weights.rounded) == (shape_.dtype == DType::bf16), "activations in ",
                name_of(shape_.dtype), weights.rounded ? " with" : " without", " rounded weights");
    FOMOE_CHECK(copies.count() == (frozen_ ? frozen_->size : 0), copies.count(),
                " elements of frozen experts, not ", frozen_ ? frozen_->size : 0);
    FOMOE_CHECK(!cleared_, "bound between clear_gradients() and train()");
    ++bindings_;
    weights_ = weight_views(model_, layout_, weights.values, weights.rounded);
    if (frozen_) add_frozen_views(model_, *frozen_, copies, weights_);
    gradients_ = gradients ? model_views(model_, layout_, gradients) : ModelViews{};
    dense_gradients_ = gradients ? gradients.slice(0, layout_.dense.size) : Tensor{};
    for (size_t l = 0; l < routing_.size(); ++l) {
        std::vector<int64_t> offsets = weights_.layers[l].expert_offset;
        std::ranges::copy(weights_.layers[l].frozen_offset, std::back_inserter(offsets));
        routing_[l].expert_offset =
            routing_[l].expert_offset.reshaped(Shape(static_cast<int64_t>(offsets.size())));
        backend_.copy_from_host(routing_[l].expert_offset, offsets.data());
    }
}

void Transformer::load(const TokenBatch& batch) {
    const size_t N = static_cast<size_t>(shape_.tokens());
    FOMOE_CHECK(batch.token.size() == N && batch.target.size() == N && batch.position.size() == N,
                "a micro-batch of ", batch.token.size(), " tokens, not ", N);
    FOMOE_CHECK(batch.begin.size() == (shape_.document_mask ? N : 0), "document starts");
    FOMOE_CHECK(batch.sequence.size() == (shape_.cached ? N : 0), "sequences of the cache");
    FOMOE_CHECK(shape_.cached == bool(cache_), "a cache, or a shape without");
    const int64_t n = context_.shape.tokens();
    for (int i = 0; i < shape_.lanes; ++i) {
        const Lane& lane = lanes_[i];
        backend_.copy_from_host(lane.token, batch.token.data() + i * n);
        backend_.copy_from_host(lane.target, batch.target.data() + i * n);
        backend_.copy_from_host(lane.position, batch.position.data() + i * n);
        if (shape_.document_mask) backend_.copy_from_host(lane.begin, batch.begin.data() + i * n);
        if (cache_) backend_.copy_from_host(lane.sequence, batch.sequence.data() + i * n);
    }
}

// The layer up to where its tokens leave, behind the end of the layer below.
void Transformer::begin_layer(Lane& a, int l, const BalanceWeights& balance) {
    const float eps = static_cast<float>(model_.norm_eps);
    LayerActivations& layer = a.layers[l];
    const LayerViews& w = weights_.layers[l];
    if (l == 0) {
        backend_.run(Embedding{.y = layer.sum1, .token = a.token, .weight = weights_.embedding});
        backend_.run(RmsNorm{.y = layer.normed1,
                             .sum = {},
                             .rstd = layer.rstd1,
                             .x = layer.sum1,
                             .residual = {},
                             .weight = w.input_norm,
                             .eps = eps});
    } else {
        mlp_collect(mlp(a, l - 1), a.stream);
        backend_.run(RmsNorm{.y = layer.normed1,
                             .sum = layer.sum1,
                             .rstd = layer.rstd1,
                             .x = a.stream,
                             .residual = a.layers[l - 1].sum2,
                             .weight = w.input_norm,
                             .eps = eps});
    }
    attention_forward(context_, w, layer, a, a.stream);
    backend_.run(RmsNorm{.y = layer.normed2,
                         .sum = layer.sum2,
                         .rstd = layer.rstd2,
                         .x = a.stream,
                         .residual = layer.sum1,
                         .weight = w.post_norm,
                         .eps = eps});
    mlp_route(mlp(a, l), l, totals_, balance, a.stream);
}

void Transformer::forward(const BalanceWeights& balance) {
    const int L = model_.n_layers;
    for (int l = 0; l < L; ++l) {
        for (Lane& lane : lanes_) begin_layer(lane, l, balance);
        for (Lane& lane : lanes_) mlp_dispatch(mlp(lane, l), need_);
        for (Lane& lane : lanes_) mlp_experts(mlp(lane, l), lane.stream);
    }
    for (Lane& a : lanes_) {
        mlp_collect(mlp(a, L - 1), a.stream);
        backend_.run(RmsNorm{.y = a.last_normed,
                             .sum = a.last_sum,
                             .rstd = a.last_rstd,
                             .x = a.stream,
                             .residual = a.layers.back().sum2,
                             .weight = weights_.final_norm,
                             .eps = static_cast<float>(model_.norm_eps)});
    }
}

// The gradients up to those that leave for the experts of the last layer.
void Transformer::begin_backward(Lane& a, double loss_scale) {
    backend_.run(LinearCrossEntropy{.loss = a.loss,
                                    .dx = a.dnormed,
                                    .dweight = gradients_.head,
                                    .x = a.last_normed,
                                    .weight = weights_.head,
                                    .target = a.target,
                                    .scale = static_cast<float>(loss_scale)});
    backend_.run(RmsNormBackward{.dx = a.dstream,
                                 .dweight = gradients_.final_norm,
                                 .dy = a.dnormed,
                                 .dsum = {},
                                 .sum = a.last_sum,
                                 .rstd = a.last_rstd,
                                 .weight = weights_.final_norm});
    const int l = model_.n_layers - 1;
    mlp_backward_dispatch(mlp(a, l), gradients_.layers[l], a.dstream, a.dnormed);
}

// The rest of the layer when its experts are done, up to where the next ones' gradients leave.
void Transformer::end_backward_layer(Lane& a, int l, const BalanceWeights& balance) {
    const LayerActivations& layer = a.layers[l];
    const LayerViews &w = weights_.layers[l], &g = gradients_.layers[l];
    mlp_backward_collect(mlp(a, l), g, balance, a.dstream, a.dnormed);
    backend_.run(RmsNormBackward{.dx = a.dstream,
                                 .dweight = g.post_norm,
                                 .dy = a.dnormed,
                                 .dsum = a.dstream,
                                 .sum = layer.sum2,
                                 .rstd = layer.rstd2,
                                 .weight = w.post_norm});
    attention_backward(context_, w, g, layer, a, a.dstream, a.dnormed);
    backend_.run(RmsNormBackward{.dx = a.dstream,
                                 .dweight = g.input_norm,
                                 .dy = a.dnormed,
                                 .dsum = a.dstream,
                                 .sum = layer.sum1,
                                 .rstd = layer.rstd1,
                                 .weight = w.input_norm});
    if (l > 0) mlp_backward_dispatch(mlp(a, l - 1), gradients_.layers[l - 1], a.dstream, a.dnormed);
}

void Transformer::clear_gradients() {
    backend_.zero(dense_gradients_);
    cleared_ = true;
}

void Transformer::train(const TokenBatch& batch, double loss_scale,
                        const std::function<void(int)>& layer_done) {
    FOMOE_CHECK(gradients_.embedding, "bound for evaluation");
    load(batch);
    const bool accumulate = !std::exchange(cleared_, false);
    const auto issue = [&] { forward_backward(loss_scale, accumulate, layer_done); };
    // Where tokens travel the host counts them on the way, and layer_done has work of its own. With
    // a document mask the number of valid tokens, and so the scale, is another in each step.
    if (expert_parallel_.size() > 1 || layer_done || shape_.document_mask) return issue();
    const auto memory = reinterpret_cast<uintptr_t>(lanes_[0].token.data);
    const uint64_t kind = 2 * bindings_ + accumulate;
    backend_.repeat(combine_bits(combine_bits(memory, kind), std::bit_cast<uint64_t>(loss_scale)),
                    issue);
}

void Transformer::forward_backward(double loss_scale, bool accumulate,
                                   const std::function<void(int)>& layer_done) {
    const double per_layer = loss_scale / std::max(1, moe_layers(model_));
    const BalanceWeights balance{
        .aux = static_cast<float>(model_.moe.aux_loss * per_layer),
        .z = static_cast<float>(model_.moe.z_loss * per_layer),
        .affinity = static_cast<float>(federation_.affinity_loss * per_layer)};
    forward(balance);
    for (Lane& lane : lanes_) begin_backward(lane, loss_scale);
    for (int l = model_.n_layers - 1; l >= 0; --l) {
        for (Lane& a : lanes_)
            mlp_backward_experts(mlp(a, l), gradients_.layers[l], accumulate || &a != &lanes_[0],
                                 a.dstream, a.dnormed);
        for (Lane& lane : lanes_) end_backward_layer(lane, l, balance);
        if (layer_done) layer_done(l);
    }
    for (const Lane& a : lanes_) {
        backend_.run(
            EmbeddingBackward{.dweight = gradients_.embedding, .dy = a.dstream, .token = a.token});
        backend_.run(Sum{.sum = loss_total_, .x = a.loss});
    }
}

void Transformer::forward_only(const TokenBatch& batch) {
    backend_.copy(totals_before_.load, totals_.load);
    backend_.copy(totals_before_.balance, totals_.balance);
    for (;;) {
        load(batch);
        forward({});
        if (!overflowed()) return;
        make_room(need_);
        backend_.copy(totals_.load, totals_before_.load);
        backend_.copy(totals_.balance, totals_before_.balance);
    }
}

double Transformer::evaluate(const TokenBatch& batch, std::span<float> token_loss) {
    FOMOE_CHECK(static_cast<int64_t>(token_loss.size()) == shape_.tokens(), "token_loss");
    forward_only(batch);
    for (size_t i = 0; i < lanes_.size(); ++i) {
        const Lane& a = lanes_[i];
        backend_.run(LinearCrossEntropy{.loss = a.loss,
                                        .dx = {},
                                        .dweight = {},
                                        .x = a.last_normed,
                                        .weight = weights_.head,
                                        .target = a.target});
        backend_.copy_to_host(token_loss.data() + i * context_.shape.tokens(), a.loss);
    }
    return std::accumulate(token_loss.begin(), token_loss.end(), 0.0);
}

void Transformer::route(const TokenBatch& batch) { forward_only(batch); }

void Transformer::logits(const TokenBatch& batch, Range rows, std::span<float> out) {
    forward_only(batch);
    last_logits(rows, out);
}

void Transformer::reset_totals() {
    backend_.zero(totals_.load);
    backend_.zero(totals_.balance);
    backend_.zero(loss_total_);
}

void Transformer::set_fractions(std::span<const float> fractions) {
    const int64_t E = model_.moe.n_experts;
    FOMOE_CHECK(static_cast<int64_t>(fractions.size()) == model_.n_layers * E, "fractions");
    backend_.copy_from_host(fractions_, fractions.data());
}

void Transformer::set_residents(std::span<const int32_t> slots) {
    ++bindings_;
    const int64_t E = model_.moe.n_experts;
    FOMOE_CHECK(static_cast<int64_t>(slots.size()) == model_.n_layers * E, "slots");
    for (int64_t l = 0; l < model_.n_layers; ++l) {
        const auto held =
            std::ranges::count_if(slots.subspan(l * E, E), [](int s) { return s >= 0; });
        const bool reroutes = federation_.absent == AbsentPolicy::reroute;
        FOMOE_CHECK(!reroutes || l < model_.moe.first_dense_layers || held >= model_.moe.top_k,
                    "layer ", l, ": ", held, " residents to reroute to, top_k ", model_.moe.top_k);
        routing_[l].candidates = static_cast<int>(reroutes ? held : E);
        backend_.copy_from_host(routing_[l].resident, slots.data() + l * E);
    }
}

}  // namespace fomoe
