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

// A layer in a lane, and what it works with.
struct MlpLayer {
    const BlockContext& context;
    const LayerViews& weights;
    LayerActivations& layer;
    const Activations& shared;
    const LayerRouting& routing;
};

// The branch's contribution to the residual stream, out (N, D), from normed2, in four parts: those
// of another lane may stand between them. Tokens travel on the comm queue between the parts, and
// only dispatch() waits on the host, for the numbers of their rows; with EP = 1 nothing does.
void mlp_route(const MlpLayer& mlp, int layer_index, const RoutingTotals& totals,
               const BalanceWeights& balance, Tensor out);
// Where more rows or choices come to some rank than there is room for, no token travels, on any of
// the EP ranks: what follows has no meaning. `need` becomes the most there was so far.
void mlp_dispatch(const MlpLayer& mlp, DispatchNeed& need);
void mlp_experts(const MlpLayer& mlp, Tensor out);
void mlp_collect(const MlpLayer& mlp, Tensor out);

// dnormed (N, D) = the gradient of normed2, in three parts; adds to the gradients of the weights.
// Those of the experts are written, unless it is to accumulate.
void mlp_backward_dispatch(const MlpLayer& mlp, const LayerViews& gradients, ConstTensor dout,
                           Tensor dnormed);
void mlp_backward_experts(const MlpLayer& mlp, const LayerViews& gradients, bool accumulate,
                          ConstTensor dout, Tensor dnormed);
void mlp_backward_collect(const MlpLayer& mlp, const LayerViews& gradients,
                          const BalanceWeights& balance, ConstTensor dout, Tensor dnormed);

}  // namespace fomoe
