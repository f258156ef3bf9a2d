// Attention with its projections: normed1 -> queries, keys, values -> rotation -> attention ->
// output.
#pragma once

#include "model/block.h"

namespace fomoe {

// out (N, D) = the branch's contribution to the residual stream.
void attention_forward(const BlockContext& context, const LayerViews& weights,
                       LayerActivations& layer, const Activations& shared, Tensor out);

// dnormed (N, D) = the gradient of normed1; adds to the gradients of the weights.
void attention_backward(const BlockContext& context, const LayerViews& weights,
                        const LayerViews& gradients, const LayerActivations& layer,
                        const Activations& shared, ConstTensor dout, Tensor dnormed);

}  // namespace fomoe
