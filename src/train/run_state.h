// The state of a run as the tensors of a checkpoint.
#pragma once

#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "federation/round.h"
#include "train/step.h"

namespace fomoe {

// What the state is made of; views, all outlive the use.
struct RunState {
    const Config& config;
    const std::vector<Parameter>& all;
    const Placement& placement;
    const World& world;
    const ArenaLayout& layout;
    const FrozenLayout& frozen;
    InnerStep& step;
    Federation& federation;
};

// Everything that this rank writes: its parts of the union model, of the outer momentum and of its
// group's weights, moments and counts. Good until the run goes on.
struct StateToSave {
    std::vector<TensorSet> sets;
    // What they point into, beside the run itself.
    std::vector<float> load;  // (L, E) of the last step
    std::vector<float> bad_steps;
    std::vector<int64_t> starts;
    std::vector<OnHost> moments;
};
StateToSave state_to_save(const RunState& run);

// Fills the run from a checkpoint of the same groups that holds the same residents, or every
// expert: then the state of those that a group no longer holds is left behind.
void restore(const RunState& run, const Checkpoint& checkpoint);

}  // namespace fomoe
