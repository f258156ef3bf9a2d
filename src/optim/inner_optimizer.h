// AdamW over the slices of the arena that this rank steps: the optimizer state of a group is spread
// over its ranks, each element once.
#pragma once

#include <array>
#include <vector>

#include "model/parameters.h"
#include "ops/backend.h"

namespace fomoe {

class InnerOptimizer {
public:
    // Elements [begin, begin + size) of the arena, with the moments of those elements.
    struct Slice {
        int64_t begin = 0, size = 0;
        Tensor m, v;  // (size)
    };

    InnerOptimizer(const OptimizerConfig& config, const ArenaLayout& layout, const World& world,
                   Backend& backend);

    // Slice 0: of the dense section, cut among the P ranks of the group. Slice 1: of the experts,
    // cut among the P / EP ranks that hold the same shard. A slice may be empty.
    const std::array<Slice, 2>& slices() const { return slices_; }

    // One step on the own slices of weights, from the summed gradients at the same places.
    // grad_scale (1) f32 multiplies the gradient; step counts from 1.
    void step(Tensor weights, ConstTensor gradients, ConstTensor grad_scale, double lr,
              int64_t step);

    // Bytes of moments for these slice sizes.
    int64_t bytes() const { return state_.bytes(); }

private:
    // A run of a slice whose parameters share class and decay.
    struct Run {
        int64_t begin, size;
        ParamClass cls;
        bool decay;
    };
    void find_runs(const ArenaLayout& layout);
    const ClassOptimizerConfig& of(ParamClass cls) const;

    OptimizerConfig config_;
    Backend& backend_;
    Arena state_;
    std::array<Slice, 2> slices_;
    std::array<std::vector<Run>, 2> runs_;
};

}  // namespace fomoe
