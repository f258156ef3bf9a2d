// A round: prepare, verify, exchange, commit; one decision for all spans and groups.
#pragma once

#include <string>
#include <vector>

#include "federation/agreement.h"
#include "federation/frozen_copies.h"
#include "federation/moments.h"
#include "federation/outer_step.h"
#include "federation/participants.h"

namespace fomoe {

// Equal on all ranks, except for `own` and `drift`, which are equal within a group, and `stepped`.
struct RoundResult {
    bool committed = false;  // false: nothing has changed, to the bit
    bool finite = true;      // what every group would have contributed was finite
    Failure failure;         // why it was not committed
    int64_t round = 0;       // number of this round, from 1
    int groups = 0, contributed = 0;
    TrafficBytes counted, predicted;  // over all groups
    TrafficBytes own;                 // counted, this group's
    double seconds = 0;               // on this rank
    bool refreshed = false;           // frozen copies were exchanged
    double drift = 0;       // ||local - anchor|| / ||anchor||, shared class, before the step
    uint64_t checksum = 0;  // of all committed spans; 0 when nothing was committed
    // Mean cosine between the pseudo-gradients of two groups, over the elements of the class that
    // both contributed to and that were stepped from an anchor.
    ByClass cosine;
    std::optional<double> agreement;  // share of equal choices on the probe
    // Where this rank holds what the round has stepped from an anchor, in the arena. Whole
    // parameters; without what one owner keeps as it is.
    std::vector<Range> stepped;
};

// What a rank brings to a round.
struct RoundInput {
    Classes due = kAllClasses;     // the classes that are exchanged and may change
    Moments moments = kNoMoments;  // of these, the moments that are averaged, too
    bool met = false;    // a Meeting was just held for this round: its word counts as the round's
    ProbeChoices probe;  // as many in every group; those of a group's first rank count
};

// Words that the leader of a group sends every other leader in a round of these classes and in the
// meeting before it: a pure function of the config. `n_choices` as of TrainedCounts; `probe_ids`
// are those of ProbeChoices.
int64_t round_control_words(const CountUse& use, const Classes& due, int64_t n_choices,
                            size_t probe_ids, size_t n_spans, int n_groups);

// What one rank keeps for the outer step, and how it takes part in it. With one group nothing is
// sent and the weights stay as they are.
class Federation {
public:
    // `world` and `link` outlive it. `group` has the ranks of this group, `replicas` those of them
    // that hold the same experts.
    Federation(const FederationConfig& config, const std::vector<Parameter>& all,
               const ArenaLayout& layout, const Placement& placement, const World& world,
               Link& link, Communicator& group, Communicator& replicas, const ModelConfig& model);
    Federation(const Federation&) = delete;
    Federation& operator=(const Federation&) = delete;

    // From now on rounds also average this rank's moments, of its group's weights. The optimizer
    // outlives this.
    void average_moments(InnerOptimizer& optimizer) {
        moments_.emplace(spans_, optimizer, group_, replicas_);
    }

    // Anchor = these weights, momentum = 0, no rounds yet. weights (layout.size()) f32, in host
    // memory, the same in every owner of a span.
    void start(ConstTensor weights);

    // From now on every `every`-th committed round that exchanges experts refreshes the copies:
    // `values` (FrozenLayout::size) bf16, in host memory. Groups that do not contribute do not send
    // theirs. `copies` outlives the federation.
    void keep_frozen(FrozenCopies& copies, Tensor values, int every);
    // Committed rounds that have exchanged experts since the copies were refreshed, (1) i64: part
    // of the state.
    Tensor copies_age() { return view(&copies_age_, Shape(1)); }

    // After a step of this group: its valid tokens, and their choices (L, E).
    void count(int64_t valid_tokens, std::span<const float> choices);

    // What of the weights a round of these classes reads on this rank, in the arena; it changes
    // parts of that only, RoundResult::stepped.
    std::vector<Range> reads(const Classes& due) const;

    // Collective over all ranks of the federation. Weights that changed (`committed`) make derived
    // copies stale. Throws Error(communication) when a group stays silent, or when holders of a
    // span disagree after the commit; the message names the first parameter that differs.
    RoundResult round(Tensor weights, const RoundInput& input = {});

    // Makes weights like this rank's those of the union: the anchors, wherever there are any. After
    // a committed round of all classes they are already. Collective over the ranks of the group.
    void write_anchors(Tensor weights) const;

    // The next rounds follow the outer optimizer of this config; anchors and momentum stay.
    void follow(const FederationConfig& config);

    int64_t rounds() const { return rounds_; }  // committed
    void set_rounds(int64_t rounds) { rounds_ = rounds; }

    // Since the classes were last exchanged. The same on all ranks of a group; part of its state.
    TrainedCounts& counts() { return counts_; }
    // With aux_scope `federation`: the choices (L, E) of all groups between the last two exchanges
    // of the router, 0 before the first; part of the state.
    std::vector<int64_t>& exchanged_choices() { return exchanged_choices_; }

    // The state for a checkpoint. To restore, fill anchor_lanes() and momentum() in place. To save,
    // union_model() and momentum() over all ranks are every element once: committed anchors, and
    // the weights themselves where one owner keeps no anchor.
    std::vector<StatePiece> anchor_lanes();
    std::vector<StatePiece> momentum();
    std::vector<StatePiece> union_model(Tensor weights);
    // Names of the parameters that have outer momentum, on any rank, in global order of the spans.
    std::vector<std::string> momentum_parameters() const;

    const std::vector<OwnedSpan>& spans() const { return spans_; }
    // Of anchors, momentum and staging on this rank, and of moments in a round that averages them;
    // without wire buffers.
    int64_t bytes() const;

private:
    Participants prepare(const float* weights, Participants participants, RoundResult& result);
    double measure_drift(const float* weights) const;
    std::optional<double> compare(const ProbeChoices& probe);
    Failure stage(const float* weights, const Participants& participants, PairProducts& products);
    void commit(Tensor weights, const Participants& participants, RoundResult& result);
    void refresh_frozen(Tensor weights, const Participants& participants, RoundResult& result);
    void verify_copies(const float* weights, const Participants& participants,
                       const PairProducts& products, RoundResult& result);
    std::string first_difference(const float* weights, const OwnedSpan& span);

    const double reject_above_;
    const World& world_;
    Link& link_;
    Communicator& group_;
    Communicator& replicas_;
    const Placement placement_;
    const CountUse use_;
    Agreement agreement_;
    std::vector<OwnedSpan> spans_;
    std::vector<OuterStep> steps_;  // one per span
    std::optional<MomentAverage> moments_;
    WireBuffers buffers_;
    int64_t rounds_ = 0;
    TrainedCounts counts_;
    std::vector<TrainedCounts> heard_;  // by group, in the round that runs
    std::vector<int64_t> exchanged_choices_;

    FrozenCopies* frozen_ = nullptr;
    Tensor frozen_values_;
    int refresh_every_ = 1;
    int64_t copies_age_ = 0;
};

}  // namespace fomoe
