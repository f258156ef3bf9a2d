// AdamW over the slices of the arena that this rank steps: the optimizer state of a group is spread
// over its ranks, each element once.
#pragma once

#include <vector>

#include "model/parameters.h"
#include "model/weight_arena.h"
#include "ops/on_host.h"

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

    // This rank's part of each bucket of the layout, in their order: those of the dense section
    // are cut among the P ranks of the group, those of experts among the P / EP ranks that hold the
    // same shard.
    const std::vector<Slice>& slices() const { return slices_; }

    const ArenaLayout& layout() const { return layout_; }

    // One step on the own slices of weights, and of what is rounded of them, from the summed
    // gradients at the same places. grad_scale (1) f32 is that of AdamW; step counts from 1. The
    // layout outlives this.
    void step(const WeightTensors& weights, ConstTensor gradients, ConstTensor grad_scale,
              double lr, int64_t step);

    // The first moments (0) or the second (1) of a slice in the hands of the host.
    OnHost moment_on_host(const Slice& slice, int moment) const {
        return OnHost(backend_, moment == 0 ? slice.m : slice.v);
    }

    // The parameters of a range of the arena, all of each, start anew after step `step`: their
    // moments become 0, and the correction of their bias counts from there.
    void restart(Range arena, int64_t step);
    // A step has passed without a change: it does not count for any parameter.
    void pass_over();
    // By parameter of the layout: the step after which its moments started, 0 at first, later
    // by each that was passed over since.
    const std::vector<int64_t>& starts() const { return starts_; }
    void set_starts(std::vector<int64_t> starts);

    // Of the moments.
    int64_t bytes() const { return state_.bytes(); }

private:
    // A run of a slice whose parameters share class, decay and start.
    struct Run {
        int64_t begin, size;
        ParamClass cls;
        bool decay;
        int64_t start;
    };
    void find_runs();
    const ClassOptimizerConfig& of(ParamClass cls) const;

    OptimizerConfig config_;
    const ArenaLayout& layout_;
    Backend& backend_;
    Arena state_;
    std::vector<Slice> slices_;
    std::vector<std::vector<Run>> runs_;  // by slice
    std::vector<int64_t> starts_;
};

}  // namespace fomoe
