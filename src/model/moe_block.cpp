#include "model/moe_block.h"

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

// Sends the rows of tokens to the ranks that hold their experts, once per (token, rank).
void dispatch(const BlockContext& context, LayerActivations& layer, const Activations& shared,
              const LayerRouting& routing) {
    Backend& backend = context.backend;
    Communicator& ranks = context.expert_parallel;
    backend.run(DispatchPlan{
        .offset = layer.send_offset,
        .token = layer.send_token,
        .row_slot = shared.send_slot,
        .position = layer.position,
        .slot = layer.slot,
        .first_slot = routing.first_slot,
    });
    const int EP = ranks.size();
    std::vector<int32_t> offset(EP + 1);
    backend.copy_to_host(offset.data(), layer.send_offset);
    layer.rows_to.resize(EP);
    layer.rows_from.resize(EP);
    for (int q = 0; q < EP; ++q) layer.rows_to[q] = offset[q + 1] - offset[q];
    const std::vector<int64_t> one(EP, 1);
    ranks.all_to_all_v(view(layer.rows_from.data(), Shape(EP)), one,
                       view(layer.rows_to.data(), Shape(EP)), one);

    const int64_t leave = sum(layer.rows_to), come = sum(layer.rows_from);
    const Tensor token = layer.send_token.reshaped(Shape(leave));
    const Tensor send_x = rows(shared.send_x, leave), send_gate = rows(shared.send_gate, leave);
    if (leave > 0) {
        backend.run(Permute{.y = send_x, .x = layer.normed2, .index = token});
        backend.run(Permute{.y = send_gate, .x = layer.gate, .index = token});
    }
    auto send = [&](Tensor to, ConstTensor from) {
        ranks.all_to_all_v(to, layer.rows_from, from, layer.rows_to);
    };
    send(rows(layer.row_x, come), send_x);
    send(rows(layer.row_gate, come), send_gate);
    send(rows(layer.row_slot, come), rows(shared.send_slot, leave));
}

// Brings the results for the rows that came back to their tokens: y (N, ...) = sum over the ranks.
void collect(const BlockContext& context, const LayerActivations& layer, Tensor y, ConstTensor row,
             Tensor scratch) {
    const int64_t leave = sum(layer.rows_to);
    const Tensor back = rows(scratch, leave);
    context.expert_parallel.all_to_all_v(back, layer.rows_to, row, layer.rows_from);
    context.backend.run(Combine{.y = y, .x = back, .position = layer.position});
}

// The rows that this rank's experts work on: its own tokens, or those that came.
struct ExpertRows {
    Tensor x, slot, gate, y, dy, dgate;
    int64_t count;
};
ExpertRows expert_rows(const BlockContext& context, const LayerActivations& layer,
                       const Activations& shared) {
    if (context.expert_parallel.size() == 1)
        return {.x = layer.normed2,
                .slot = layer.slot,
                .gate = layer.gate,
                .y = {},
                .dy = {},
                .dgate = shared.dgate,
                .count = layer.normed2.shape[0]};
    const int64_t n = sum(layer.rows_from);
    return {.x = rows(layer.row_x, n),
            .slot = rows(layer.row_slot, n),
            .gate = rows(layer.row_gate, n),
            .y = rows(shared.row_y, n),
            .dy = rows(shared.row_dy, n),
            .dgate = rows(shared.row_dgate, n),
            .count = n};
}

// The front of the bound for the choices of a layer: rows times the choices a row can have here.
struct Choices {
    Tensor hidden, choice, offset;
};
Choices choices_of(const LayerActivations& layer, const LayerViews& weights, int64_t row_count,
                   int64_t top_k) {
    const int64_t R = weights.n_experts();
    const int64_t M = row_count * std::min(top_k, R);
    return {rows(layer.hidden, M), layer.choice.reshaped(Shape(M)),
            layer.offset.reshaped(Shape(R + 1))};
}

}  // namespace

void mlp_forward(const BlockContext& context, int layer_index, const LayerViews& weights,
                 LayerActivations& layer, const Activations& shared, const LayerRouting& routing,
                 const RoutingTotals& totals, const BalanceWeights& balance, Tensor out) {
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

    const bool travels = context.expert_parallel.size() > 1;
    if (travels) dispatch(context, layer, shared, routing);
    const ExpertRows row = expert_rows(context, layer, shared);
    const Choices use = choices_of(layer, weights, row.count, moe.top_k);
    if (row.count > 0)
        backend.run(ExpertsForward{
            .y = travels ? row.y : out,
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
    if (travels) collect(context, layer, out, row.y, shared.send_x);
    if (weights.mlp_in) dense_forward(context, weights, layer, shared, out, true);
}

void mlp_backward(const BlockContext& context, const LayerViews& weights,
                  const LayerViews& gradients, const LayerActivations& layer,
                  const Activations& shared, const LayerRouting& routing,
                  const BalanceWeights& balance, ConstTensor dout, Tensor dnormed) {
    if (!routed(weights)) {
        dense_backward(context, weights, gradients, layer, shared, dout, dnormed, false);
        return;
    }
    const MoeConfig& moe = context.model.moe;
    Backend& backend = context.backend;
    const bool travels = context.expert_parallel.size() > 1;
    const ExpertRows row = expert_rows(context, layer, shared);
    const Choices use = choices_of(layer, weights, row.count, moe.top_k);
    if (travels) {
        const int64_t leave = sum(layer.rows_to);
        const Tensor send = rows(shared.send_x, leave);
        if (leave > 0)
            backend.run(
                Permute{.y = send, .x = dout, .index = layer.send_token.reshaped(Shape(leave))});
        context.expert_parallel.all_to_all_v(row.dy, layer.rows_from, send, layer.rows_to);
    }
    if (row.count > 0)
        backend.run(ExpertsBackward{
            .dx = travels ? row.y : dnormed,
            .dgate = row.dgate,
            .dweights = gradients.experts,
            .dy = travels ? ConstTensor(row.dy) : dout,
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
        });
    if (travels) {
        collect(context, layer, dnormed, row.y, shared.send_x);
        collect(context, layer, shared.dgate, row.dgate, shared.send_gate);
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
    if (weights.mlp_in)
        dense_backward(context, weights, gradients, layer, shared, dout, dnormed, true);
}

}  // namespace fomoe
