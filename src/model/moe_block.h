// The MLP of a layer: routed experts with their shared experts, or a dense MLP in the first layers.
#pragma once

#include "model/block.h"

namespace fomoe {

// The routing tables of one layer, in device memory.
struct LayerRouting {
    Tensor resident;       // (E) i32, slot in the group or -1: absent
    Tensor first_slot;     // (EP + 1) i32, slots by shard
    Tensor expert_offset;  // (R) i64, of this rank's experts: LayerViews::expert_offset, then
                           // frozen_offset
    Tensor fraction;       // (E) the f of the balancing loss; empty: each sequence's own
    int candidates = 0;    // experts that can be chosen
};

// What the routing of a step adds up to, over layers and micro-batches, in device memory.
struct RoutingTotals {
    Tensor load;     // (L, E) choices of valid tokens
    Tensor balance;  // (3) f64: sums of Balance::loss
};

// How strongly the balancing terms pull, per valid token of the group's step.
struct BalanceWeights {
    float aux = 0;       // aux_loss / (valid tokens * MoE layers)
    float z = 0;         // z_loss / (valid tokens * MoE layers)
    float affinity = 0;  // affinity_loss / (valid tokens * MoE layers)
};

// out (N, D) = the branch's contribution to the residual stream, from normed2.
void mlp_forward(const BlockContext& context, int layer_index, const LayerViews& weights,
                 LayerActivations& layer, const Activations& shared, const LayerRouting& routing,
                 const RoutingTotals& totals, const BalanceWeights& balance, Tensor out);

// dnormed (N, D) = the gradient of normed2; adds to the gradients of the weights.
void mlp_backward(const BlockContext& context, const LayerViews& weights,
                  const LayerViews& gradients, const LayerActivations& layer,
                  const Activations& shared, const LayerRouting& routing,
                  const BalanceWeights& balance, ConstTensor dout, Tensor dnormed);

}  // namespace fomoe
