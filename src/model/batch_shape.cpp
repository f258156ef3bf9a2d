// How large the micro-batches of a rank are, and what is planned to come to it from others.
#include <algorithm>
#include <cmath>

#include "model/transformer.h"

namespace fomoe {

int64_t BatchShape::rows() const {
    const int64_t all = lane().tokens() * expert_parallel;
    return expert_parallel == 1 || row_capacity == 0 ? all : std::min(all, row_capacity);
}

int64_t BatchShape::choices(const MoeConfig& moe) const {
    const int64_t all = rows() * std::min(moe.top_k, shard_experts);
    return expert_parallel == 1 || choice_capacity == 0 ? all : std::min(all, choice_capacity);
}

DispatchNeed planned_dispatch(const MoeConfig& moe, const BatchShape& shape, double factor) {
    const double N = static_cast<double>(shape.lane().tokens());
    const double rows = N * std::min(moe.top_k, shape.expert_parallel), choices = N * moe.top_k;
    return {.rows = static_cast<int64_t>(std::ceil(factor * rows)),
            .choices = static_cast<int64_t>(std::ceil(factor * choices))};
}

int64_t Transformer::activation_bytes(const ModelConfig& model, const BatchShape& shape) {
    Arena tape;
    lay_out_activations(model, shape.lane(), tape);
    return shape.lanes * tape.bytes();
}

BatchShape Transformer::batch_shape(const ModelConfig& model, const ArenaLayout& layout,
                                    const World& world, int sequences, int seq_len,
                                    bool document_mask, const FrozenLayout* frozen, DType dtype) {
    std::vector<int> last(model.n_layers, -1), experts(model.n_layers, 0);
    const auto count = [&](const std::vector<Parameter>& parameters) {
        for (const Parameter& p : parameters)
            if (p.cls == ParamClass::expert && last[p.layer] != p.expert) {
                last[p.layer] = p.expert;
                ++experts[p.layer];
            }
    };
    count(layout.parameters);
    if (frozen) count(frozen->parameters);
    return {.sequences = sequences,
            .seq_len = seq_len,
            .expert_parallel = world.own().expert_parallel,
            .shard_experts = *std::ranges::max_element(experts),
            .document_mask = document_mask,
            .dtype = dtype};
}

BatchShape Transformer::training_shape(const Config& config, const ArenaLayout& layout,
                                       const World& world, const FrozenLayout* frozen) {
    const TrainConfig& train = config.train;
    BatchShape shape =
        batch_shape(config.model, layout, world, train.micro_batch, config.data.seq_len,
                    config.data.document_mask, frozen, dtype_of(train.dtype));
    if (shape.expert_parallel == 1) return shape;
    shape.lanes = train.two_batch_overlap ? 2 : 1;
    const DispatchNeed room = planned_dispatch(config.model.moe, shape, train.dispatch_factor);
    shape.row_capacity = room.rows;
    shape.choice_capacity = room.choices;
    return shape;
}

}  // namespace fomoe
