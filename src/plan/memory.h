// The memory of a rank, computed from the config without running it.
#pragma once

#include "model/frozen.h"
#include "model/transformer.h"

namespace fomoe {

// Bytes. What depends on the routing is taken as balanced.
struct MemoryPlan {
    int64_t weights = 0;
    int64_t rounded = 0;  // weights, once more in bf16
    int64_t gradients = 0;
    int64_t moments = 0;       // AdamW: m and v of the slices this rank steps
    int64_t activations = 0;   // of one micro-batch, kept and scratch
    int64_t scratch = 0;       // that the CPU's ops keep beside their operands, f32 of bf16 too
    int64_t outer = 0;         // anchors, momentum and staging of the outer step
    int64_t copies = 0;        // frozen copies of absent experts
    int64_t evaluation = 0;    // what an evaluation during the run takes until it is over
    int64_t expert_state = 0;  // the routed experts' part of weights, gradients and moments
    int64_t total() const {
        return weights + rounded + gradients + moments + activations + scratch + outer + copies +
               evaluation;
    }
};

// `frozen` is null without copies. `outer` is what Federation::bytes says. `threads` are the CPU
// backend's; 0: a device, which takes buffers in full and plans no scratch.
MemoryPlan memory_plan(const Config& config, const World& world, const ArenaLayout& layout,
                       const FrozenLayout* frozen, int threads, int64_t outer);

// Of the field `evaluation`: activations, copies of all experts that the group lacks (laid out by
// `copies`) unless they are always at hand, and the weights where the groups' own may differ.
// `threads` as in memory_plan.
int64_t evaluation_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout& copies, int threads);

}  // namespace fomoe
