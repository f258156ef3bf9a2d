// The state of a run as the tensors of a checkpoint.
#pragma once

#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "checkpoint/source_model.h"
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

// Fills the run from a checkpoint of the same model. Where every group can go on with its own state
// (resume_point) all of it comes back. Else every group starts a round from what was committed
// last:
// - weights, anchors and frozen copies are those of the union model;
// - outer momentum is that of the parameter, 0 where none was saved;
// - AdamW's moments, their age and the choices of the last step are the mean over the groups that
//   had the parameter, of the age the least: a new owner takes them;
// - the counts of tokens and choices since the last exchange are 0; the choices of that exchange
//   are the federation's.
ResumePoint restore(const RunState& run, const Checkpoint& checkpoint);

// The weights of a new run and the anchors: those of model.from_hf, if there is one, else the start
// values that its step has. Frozen copies are those of the same model.
void start_anew(const RunState& run, const std::optional<SourceModel>& source);

}  // namespace fomoe
