#include "model/moe_block.h"

#include <algorithm>
#include <numeric>

namespace fomoe {
namespace {

RouterScore score_of(const MoeConfig& moe) {
    return moe.router == RouterKind::softmax ? RouterScore::softmax : RouterScore::sigmoid;
}
// Where frozen copies serve all choices the router sees none that is absent.
AbsentChoices absent_choices(AbsentPolicy policy) {
    if (policy == AbsentPolicy::renormalize) return AbsentChoices::renormalize;
    if (policy == AbsentPolicy::reroute) return AbsentChoices::reroute;
    return AbsentChoices::skip;
}
bool routed(const LayerViews& weights) { return static_cast<bool>(weights.router); }

Tensor rows(Tensor x, int64_t n) { return x.reshaped(Shape(n, x.shape[1])); }

int64_t sum(const std::vector<int64_t>& x) {
    return std::accumulate(x.begin(), x.end(), int64_t{0});
}

// The dense MLP or the shared experts: out = (or +=) a(normed2 W_in^T) W_out^T.
void dense_forward(const BlockContext& context, const LayerViews& weights,
                   const LayerActivations& layer, const Activations& shared, Tensor out,
                   bool accumulate) {
    const Activation activation = activation_of(context.model.moe);
    const Tensor act =
        shared.mlp_act.reshaped(Shape(layer.mlp_hidden.shape[0], weights.mlp_out.shape[1]));
    context.backend.run(
        Linear{.y = layer.mlp_hidden, .x = layer.normed2, .weight = weights.mlp_in});
    context.backend.run(Activate{.y = act, .hidden = layer.mlp_hidden, .activation = activation});
    context.backend.run(
        Linear{.y = out, .x = act, .weight = weights.mlp_out, .accumulate = accumulate});
}

void dense_backward(const BlockContext& context, const LayerViews& weights,
                    const LayerViews& gradients, const LayerActivations& layer,
                    const Activations& shared, ConstTensor dout, Tensor dnormed, bool accumulate) {
    const Activation activation = activation_of(context.model.moe);
    Backend& backend = context.backend;
    const int64_t N = layer.mlp_hidden.shape[0];
    const Tensor act = shared.mlp_act.reshaped(Shape(N, weights.mlp_out.shape[1]));
    const Tensor dhidden = shared.dmlp_hidden.reshaped(layer.mlp_hidden.shape);
    backend.run(Activate{.y = act, .hidden = layer.mlp_hidden, .activation = activation});
    const Tensor dact = shared.dmlp_act.reshaped(act.shape);
    backend.run(LinearBackward{
        .dx = dact,
        .dweight = gradients.mlp_out,
        .dy = dout,
        .x = act,
        .weight = weights.mlp_out,
    });
    backend.run(ActivateBackward{
        .dhidden = dhidden,
        .dy = dact,
        .hidden = layer.mlp_hidden,
        .activation = activation,
    });
    backend.run(LinearBackward{
        .dx = dnormed,
        .dweight = gradients.mlp_in,
        .dy = dhidden,
        .x = layer.normed2,
        .weight = weights.mlp_in,
        .accumulate_dx = accumulate,
    });
}

bool travels(const MlpLayer& mlp) {
    return routed(mlp.weights) && mlp.context.expert_parallel.size() > 1;
}

// The comm queue goes on when the compute queue has come to here.
void comm_follows(Backend& backend) { backend.wait(Queue::comm, backend.record(Queue::compute)); }

// The rows to each rank and their choices, of all ranks, on their way to the host.
void count_rows(const MlpLayer& mlp) {
    const auto& [context, weights, layer, shared, routing] = mlp;
    Backend& backend = context.backend;
    backend.run(DispatchPlan{
        .offset = layer.send_offset,
        .token = layer.send_token,
        .row_slot = shared.send_slot,
        .position = layer.position,
        .slot = layer.slot,
        .first_slot = routing.first_slot,
    });
    comm_follows(backend);
    context.expert_parallel.all_gather(layer.counts, layer.send_offset);
    backend.copy_to_host_async(layer.host_counts, layer.counts, Queue::comm);
    layer.counted = backend.record(Queue::comm);
}

// Reads the counts that have come: the rows between this rank and the others, and the choices here.
// The most that a rank gets goes to `need`.
void read_counts(LayerActivations& layer, int rank, DispatchNeed& need) {
    const int EP = static_cast<int>(layer.counts.shape[0]);
    const auto count = [&](int from, int i) {
        const int32_t* offset = layer.host_counts + int64_t{from} * (2 * EP + 1) + i;
        return int64_t{offset[1]} - offset[0];
    };
    layer.rows_to.resize(EP);
    layer.rows_from.resize(EP);
    for (int to = 0; to < EP; ++to) {
        int64_t rows = 0, choices = 0;
        for (int from = 0; from < EP; ++from) {
            rows += count(from, to);
            choices += count(from, EP + to);
        }
        need.rows = std::max(need.rows, rows);
        need.choices = std::max(need.choices, choices);
        if (to == rank) layer.choices = choices;
        layer.rows_to[to] = count(rank, to);
        layer.rows_from[to] = count(to, rank);
    }
}

// Brings the results for the rows that came to the ranks of their tokens, behind what the compute
// queue has so far.
void send_back(const MlpLayer& mlp, Tensor to, ConstTensor row) {
    const LayerActivations& layer = mlp.layer;
    mlp.context.expert_parallel.all_to_all_v(rows(to, sum(layer.rows_to)), layer.rows_to, row,
                                             layer.rows_from);
}

// y = (or +=) the sum over the ranks of what came back.
void combine(const MlpLayer& mlp, Tensor y, Tensor back, bool accumulate) {
    const LayerActivations& layer = mlp.layer;
    if (layer.overflowed)
        mlp.context.backend.zero(y);
    else
        mlp.context.backend.run(Combine{.y = y,
                                        .x = rows(back, sum(layer.rows_to)),
                                        .position = layer.position,
                                        .accumulate = accumulate});
}

// The rows that this rank's experts work on: its own tokens, or those that came.
struct ExpertRows {
    Tensor x, slot, gate, y, dy, dgate;
};
ExpertRows expert_rows(const BlockContext& context, const LayerActivations& layer,
                       const Activations& shared) {
    if (context.expert_parallel.size() == 1)
        return {.x = layer.normed2,
                .slot = layer.slot,
                .gate = layer.gate,
                .y = {},
                .dy = {},
                .dgate = shared.dgate};
    const int64_t n = sum(layer.rows_from);
    return {.x = rows(layer.row_x, n),
            .slot = rows(layer.row_slot, n),
            .gate = rows(layer.row_gate, n),
            .y = rows(shared.row_y, n),
            .dy = rows(shared.row_dy, n),
            .dgate = rows(shared.row_dgate, n)};
}

// The front of the room for the choices of a layer: with EP = 1 as many as there could be.
struct Choices {
    Tensor hidden, choice, offset;
};
Choices choices_of(const MlpLayer& mlp) {
    const auto& [context, weights, layer, shared, routing] = mlp;
    const int64_t R = weights.n_experts();
    const int64_t M = travels(mlp) ? layer.choices : context.shape.choices(context.model.moe);
    return {rows(layer.hidden, M), layer.choice.reshaped(Shape(M)),
            layer.offset.reshaped(Shape(R + 1))};
}

}  // namespace

void mlp_route(const MlpLayer& mlp, int layer_index, const RoutingTotals& totals,
               const BalanceWeights& balance, Tensor out) {
    const auto& [context, weights, layer, shared, routing] = mlp;
    if (!routed(weights)) {
        dense_forward(context, weights, layer, shared, out, false);
        return;
    }
    const MoeConfig& moe = context.model.moe;
    Backend& backend = context.backend;
    backend.run(Linear{.y = layer.logits, .x = layer.normed2, .weight = weights.router});
    backend.run(Router{
        .gate = layer.gate,
        .expert = layer.expert,
        .slot = layer.slot,
        .count = shared.count,
        .mass = shared.mass,
        .z = shared.z,
        .affinity = shared.affinity,
        .logits = layer.logits,
        .bias = weights.router_bias,
        .resident = routing.resident,
        .target = shared.target,
        .layer_scale = weights.routed_scale,
        .score = score_of(moe),
        .normalize = moe.normalize_top_k,
        .scale = static_cast<float>(moe.top_k_scale),
        .absent = absent_choices(context.federation.absent),
        .max_renormalize = static_cast<float>(context.federation.max_renormalize),
    });
    const int64_t E = moe.n_experts;
    backend.run(Balance{
        .dmass = layer.dmass,
        .load = totals.load.slice(layer_index * E, E),
        .loss = totals.balance,
        .count = shared.count,
        .mass = shared.mass,
        .z = shared.z,
        .affinity = shared.affinity,
        .fraction = routing.fraction,
        .experts = routing.candidates,
        .weight = balance.aux,
    });
    if (!travels(mlp)) return;
    count_rows(mlp);
    if (weights.mlp_in) dense_forward(context, weights, layer, shared, out, false);
}

void mlp_dispatch(const MlpLayer& mlp, DispatchNeed& need) {
    if (!travels(mlp)) return;
    const auto& [context, weights, layer, shared, routing] = mlp;
    Backend& backend = context.backend;
    Communicator& ranks = context.expert_parallel;
    backend.synchronize(layer.counted);
    DispatchNeed here;
    read_counts(layer, ranks.rank(), here);
    layer.overflowed = !context.shape.fits(here);
    if (layer.overflowed) {
        std::ranges::fill(layer.rows_to, 0);
        std::ranges::fill(layer.rows_from, 0);
        layer.choices = 0;
    }
    need = {std::max(need.rows, here.rows), std::max(need.choices, here.choices)};

    const int64_t leave = sum(layer.rows_to), come = sum(layer.rows_from);
    const Tensor token = layer.send_token.reshaped(Shape(leave));
    const Tensor send_x = rows(shared.send_x, leave), send_gate = rows(shared.send_gate, leave);
    if (leave > 0) {
        backend.run(Permute{.y = send_x, .x = layer.normed2, .index = token}, Queue::comm);
        backend.run(Permute{.y = send_gate, .x = layer.gate, .index = token}, Queue::comm);
    }
    const auto send = [&](Tensor to, ConstTensor from) {
        ranks.all_to_all_v(to, layer.rows_from, from, layer.rows_to);
    };
    send(rows(layer.row_x, come), send_x);
    send(rows(layer.row_gate, come), send_gate);
    send(rows(layer.row_slot, come), rows(shared.send_slot, leave));
    layer.arrived = backend.record(Queue::comm);
}

void mlp_experts(const MlpLayer& mlp, Tensor out) {
    if (!routed(mlp.weights)) return;
    const auto& [context, weights, layer, shared, routing] = mlp;
    const MoeConfig& moe = context.model.moe;
    Backend& backend = context.backend;
    if (travels(mlp)) backend.wait(Queue::compute, layer.arrived);
    const ExpertRows row = expert_rows(context, layer, shared);
    const Choices use = choices_of(mlp);
    backend.run(ExpertsForward{
        .y = travels(mlp) ? row.y : out,
        .hidden = use.hidden,
        .choice = use.choice,
        .offset = use.offset,
        .x = row.x,
        .slot = row.slot,
        .gate = row.gate,
        .weights = weights.experts,
        .expert_offset = routing.expert_offset,
        .frozen = weights.frozen,
        .n_frozen = static_cast<int>(weights.frozen_offset.size()),
        .activation = activation_of(moe),
        .d_expert = moe.d_expert,
    });
    if (!travels(mlp)) {
        if (weights.mlp_in) dense_forward(context, weights, layer, shared, out, true);
        return;
    }
    comm_follows(backend);
    send_back(mlp, shared.send_x, row.y);
    layer.returned = backend.record(Queue::comm);
}

void mlp_collect(const MlpLayer& mlp, Tensor out) {
    if (!travels(mlp)) return;
    const auto& [context, weights, layer, shared, routing] = mlp;
    context.backend.wait(Queue::compute, layer.returned);
    combine(mlp, out, shared.send_x, static_cast<bool>(weights.mlp_in));
}

void mlp_backward_dispatch(const MlpLayer& mlp, const LayerViews& gradients, ConstTensor dout,
                           Tensor dnormed) {
    const auto& [context, weights, layer, shared, routing] = mlp;
    if (travels(mlp)) {
        Backend& backend = context.backend;
        const int64_t leave = sum(layer.rows_to);
        const Tensor send = rows(shared.send_x, leave);
        comm_follows(backend);
        if (leave > 0)
            backend.run(
                Permute{.y = send, .x = dout, .index = layer.send_token.reshaped(Shape(leave))},
                Queue::comm);
        context.expert_parallel.all_to_all_v(rows(shared.row_dy, sum(layer.rows_from)),
                                             layer.rows_from, send, layer.rows_to);
        layer.arrived = backend.record(Queue::comm);
    }
    const bool dense = !routed(weights) || (travels(mlp) && weights.mlp_in);
    if (dense) dense_backward(context, weights, gradients, layer, shared, dout, dnormed, false);
}

void mlp_backward_experts(const MlpLayer& mlp, const LayerViews& gradients, bool accumulate,
                          ConstTensor dout, Tensor dnormed) {
    if (!routed(mlp.weights)) return;
    const auto& [context, weights, layer, shared, routing] = mlp;
    const MoeConfig& moe = context.model.moe;
    Backend& backend = context.backend;
    if (travels(mlp)) backend.wait(Queue::compute, layer.arrived);
    const ExpertRows row = expert_rows(context, layer, shared);
    const Choices use = choices_of(mlp);
    backend.run(ExpertsBackward{
        .dx = travels(mlp) ? row.y : dnormed,
        .dgate = row.dgate,
        .dweights = gradients.experts,
        .dy = travels(mlp) ? ConstTensor(row.dy) : dout,
        .x = row.x,
        .slot = row.slot,
        .gate = row.gate,
        .hidden = use.hidden,
        .choice = use.choice,
        .offset = use.offset,
        .weights = weights.experts,
        .expert_offset = routing.expert_offset,
        .frozen = weights.frozen,
        .n_frozen = static_cast<int>(weights.frozen_offset.size()),
        .activation = activation_of(moe),
        .d_expert = moe.d_expert,
        .accumulate_dweights = accumulate,
    });
    if (!travels(mlp)) return;
    comm_follows(backend);
    send_back(mlp, shared.send_x, row.y);
    send_back(mlp, shared.send_gate, row.dgate);
    layer.returned = backend.record(Queue::comm);
}

void mlp_backward_collect(const MlpLayer& mlp, const LayerViews& gradients,
                          const BalanceWeights& balance, ConstTensor dout, Tensor dnormed) {
    if (!routed(mlp.weights)) return;
    const auto& [context, weights, layer, shared, routing] = mlp;
    const MoeConfig& moe = context.model.moe;
    Backend& backend = context.backend;
    if (travels(mlp)) {
        backend.wait(Queue::compute, layer.returned);
        combine(mlp, dnormed, shared.send_x, static_cast<bool>(weights.mlp_in));
        combine(mlp, shared.dgate, shared.send_gate, false);
    }
    backend.run(RouterBackward{
        .dlogits = shared.dlogits,
        .dlayer_scale = gradients.routed_scale,
        .dgate = shared.dgate,
        .expert = layer.expert,
        .slot = layer.slot,
        .logits = layer.logits,
        .resident = routing.resident,
        .dmass = layer.dmass,
        .target = shared.target,
        .layer_scale = weights.routed_scale,
        .score = score_of(moe),
        .normalize = moe.normalize_top_k,
        .scale = static_cast<float>(moe.top_k_scale),
        .absent = absent_choices(context.federation.absent),
        .max_renormalize = static_cast<float>(context.federation.max_renormalize),
        .dz = balance.z,
        .daffinity = balance.affinity,
    });
    backend.run(LinearBackward{
        .dx = dnormed,
        .dweight = gradients.router,
        .dy = shared.dlogits,
        .x = layer.normed2,
        .weight = weights.router,
        .accumulate_dx = true,
    });
    if (!travels(mlp) && weights.mlp_in)
        dense_backward(context, weights, gradients, layer, shared, dout, dnormed, true);
}

}  // namespace fomoe
