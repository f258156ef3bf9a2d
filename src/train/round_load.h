// How the tokens of a group were spread over the experts since the last round.
#pragma once

#include <span>
#include <vector>

#include "config/config.h"
#include "topology/placement.h"

namespace fomoe {

// By layer with experts. A candidate is an expert that tokens of the group may choose: all, or with
// `reroute` the group's own.
struct LoadByLayer {
    std::vector<double> imbalance;  // largest over mean load of the candidates
    std::vector<double> entropy;    // of the shares of the candidates; 1: all equal
    std::vector<double> skip;       // share of choices whose expert is absent
    std::vector<double> chance;     // share of candidates that are absent
    // Choices that were executed, by expert id; those of tokens without a target do not count.
    std::vector<std::vector<int64_t>> executed;
};

class RoundLoad {
public:
    RoundLoad(const Config& config, const Placement& placement, int group);

    void add(std::span<const float> load);  // (L, E) choices of a step
    LoadByLayer take();                     // since the last take()

private:
    const int first_layer_, n_layers_, n_experts_;
    std::vector<bool> resident_, candidate_;  // (L, E)
    const bool serves_absent_;                // by frozen copies
    std::vector<double> load_;                // (L, E)
};

}  // namespace fomoe
