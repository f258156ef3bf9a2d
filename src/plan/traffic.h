// Bytes that a run sends, inside a group and between groups, computed without running it.
#pragma once

#include "federation/ledger.h"
#include "federation/owned_span.h"
#include "model/frozen.h"

namespace fomoe {

// What one rank sends to others of its group in a step, if every message goes straight to where it
// is needed, at an even routing. Without a few words of sums.
struct StepTraffic {
    int64_t dense = 0;    // gradients and weights of the shared and router classes
    int64_t experts = 0;  // of the experts, among the ranks that hold the same
    int64_t tokens = 0;   // to experts of other ranks and back, forward and backward

    int64_t total() const { return dense + experts + tokens; }
};
StepTraffic step_traffic(const Config& config, const World& world, const ArenaLayout& layout,
                         const FrozenLayout* frozen);

// The tables of one placement, as every rank of the federation makes them.
struct FederationTables {
    World world;
    Placement placement;
    std::vector<Parameter> all;
    ArenaLayout layout;  // of world.rank
    FrozenLayout frozen;
    std::vector<OwnedSpan> spans;

    // Of the placement that holds in `phase_federation`.
    FederationTables(const Config& config, const FederationConfig& federation, int rank);
};

// What each group sends and receives in a round of these classes, when all contribute.
// `federation` is that of a phase. `copies`: frozen copies are refreshed, too.
std::vector<TrafficBytes> round_traffic(const Config& config, const FederationConfig& federation,
                                        const FederationTables& tables, const Participants& due,
                                        bool copies);

// What all groups together send and receive in the rounds of steps 1 to `step` of the run. Without
// what evaluations and the calibration send, and as if no contribution were left out. `known`: the
// tables of the run's last phase, where they are at hand.
TrafficBytes run_traffic(const Config& config, int64_t step,
                         const FederationTables* known = nullptr);

}  // namespace fomoe
