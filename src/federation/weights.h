// How much each contribution counts in an average: what the groups have trained on since a class
// was last exchanged, and the weights that follow for every run of a span.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "federation/participants.h"

namespace fomoe {

// What one group has trained on since the last exchange of each class: valid tokens of the shared
// parameters and the router, choices of the experts and of the router's rows.
class TrainedCounts {
public:
    // n_choices: layers times experts.
    explicit TrainedCounts(int64_t n_choices)
        : row_(1 + n_choices), values_(std::tuple_size_v<Classes> * row_) {}

    // One step: its valid tokens, and their choices (L, E).
    void add(int64_t valid_tokens, std::span<const float> choices);
    // The span has been exchanged.
    void restart(const OwnedSpan& span, int n_experts);

    int64_t n_choices() const { return row_ - 1; }
    int64_t tokens(ParamClass cls) const { return values_[row_of(cls)]; }
    std::span<const int64_t> choices(ParamClass cls) const {
        return std::span(values_).subspan(row_of(cls) + 1, n_choices());
    }
    // All of it, (3, 1 + L E): tokens and choices by class, 0 where they are not counted. State of
    // the run.
    std::span<int64_t> values() { return values_; }
    int64_t row_of(ParamClass cls) const { return static_cast<int>(cls) * row_; }

private:
    int64_t row_;
    std::vector<int64_t> values_;
};

// What the counts are for; groups tell each other no more than that.
struct CountUse {
    bool weights = false;   // federation.weights: tokens
    bool by_owner = false;  // federation.router.average: owners
    bool balance = false;   // model.moe.aux_scope: federation

    CountUse(const FederationConfig& federation, const MoeConfig& moe)
        : weights(federation.weights == WeightsKind::tokens),
          by_owner(federation.router_average == RouterAverage::owners),
          balance(moe.aux_scope == AuxScope::federation) {}
};

// The counts that a group tells in a round of these classes, and back; what is not told reads 0.
std::vector<uint64_t> told_words(const CountUse& use, const Classes& due, TrainedCounts counts);
TrainedCounts heard_counts(const CountUse& use, const Classes& due, int64_t n_choices,
                           std::span<const uint64_t> words);

// A range of a span whose contributions weigh the same all over.
struct WeightRun {
    Range range;
    std::vector<float> weights;  // of the contributing owners, in their order; they sum to 1
};

// The weights of a round's contributions: equal, or in proportion to what the groups have trained
// on, for an expert the choices of it. A row of the router may count in the owners of its expert
// alone; without a contributing owner it is averaged as without that rule. Where all counts are 0
// the weights are equal.
class ContributionWeights {
public:
    // `groups` has the counts of every group, by group; both outlive it.
    ContributionWeights(const CountUse& use, const Placement& placement,
                        const std::vector<TrainedCounts>& groups)
        : use_(use), placement_(placement), groups_(groups) {}

    // Runs that tile `range`. `contributed` is by group; at least one owner of the span has.
    std::vector<WeightRun> runs(const OwnedSpan& span, Range range,
                                const std::vector<bool>& contributed) const;

private:
    std::vector<float> of_parameter(const OwnedSpan& span, size_t parameter,
                                    const std::vector<int>& contributors) const;
    std::vector<float> of_row(int layer, int expert, const std::vector<int>& contributors,
                              const std::vector<float>& otherwise) const;

    CountUse use_;
    const Placement& placement_;
    const std::vector<TrainedCounts>& groups_;
};

}  // namespace fomoe
