// The memory of a rank, computed from the config without running it.
#pragma once

#include <vector>

#include "federation/owned_span.h"
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
    int64_t outer = 0;         // of the outer step: outer_bytes()
    int64_t copies = 0;        // frozen copies of absent experts
    int64_t pages = 0;         // what the CPU's huge pages add to all of these
    int64_t evaluation = 0;    // what an evaluation during the run takes until it is over
    int64_t snapshot = 0;      // of a checkpoint on its way: snapshot_bytes(), of the host
    int64_t expert_state = 0;  // the routed experts' part of weights, gradients and moments
    int64_t total() const {
        return weights + rounded + gradients + moments + activations + scratch + outer + copies +
               pages + evaluation + snapshot;
    }
    // Of the memory of the host where the ranks compute on a device.
    int64_t beside_device() const { return outer + snapshot; }
};

// What the outer step holds on this rank during a round: anchors, momentum and staging, what
// averages moments, and the buffers of its messages. Host memory.
int64_t outer_bytes(const FederationConfig& federation, const std::vector<OwnedSpan>& spans,
                    const ArenaLayout& layout);

// `frozen` is null without copies. `outer` is outer_bytes(), 0 without other groups. `threads` are
// the CPU backend's; 0: a device, which takes buffers in full and plans no scratch.
MemoryPlan memory_plan(const Config& config, const World& world, const ArenaLayout& layout,
                       const FrozenLayout* frozen, int threads, int64_t outer);

// Of the field `evaluation`: activations, copies of all experts that the group lacks (laid out by
// `copies`) unless they are always at hand, and the weights where the groups' own may differ.
// `threads` as in memory_plan.
int64_t evaluation_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout& copies, int threads);

// Of the field `snapshot`: what this rank writes of a checkpoint, without counts. 0 unless
// they are written behind training. `frozen` as in memory_plan.
int64_t snapshot_bytes(const Config& config, const FederationConfig& federation, const World& world,
                       const Placement& placement, const ArenaLayout& layout,
                       const std::vector<OwnedSpan>& spans, const FrozenLayout* frozen);

// What a routing that is the same to all experts brings to a rank, from a lane of a micro-batch of
// each of its EP ranks.
struct Routed {
    double rows = 0;     // token rows that its experts work on
    double choices = 0;  // (token, expert) pairs
    double sent = 0;     // rows that leave for other ranks and itself; 0 with EP = 1
};
Routed even_routing(const Config& config, const World& world, const ArenaLayout& layout,
                    const FrozenLayout* frozen);

// The part of the activations that has room for what comes to this rank's experts, in all lanes and
// layers: as much as an even routing brings, what is taken at the start, and what the worst
// routing would grow it to.
struct DispatchBytes {
    int64_t even = 0, planned = 0, worst = 0;
};
DispatchBytes dispatch_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                             const FrozenLayout* frozen);

// What activations would take, of which `activations` of a plan are one, if a layer kept its input
// only and computed all else once more in the backward pass: an estimate of what is not built.
int64_t recomputed_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout* frozen);

// Of a GPU's ops, at an even routing: what the largest of them takes beside its operands.
int64_t device_scratch_bytes(const Config& config, const World& world, const ArenaLayout& layout,
                             const FrozenLayout* frozen);

}  // namespace fomoe
