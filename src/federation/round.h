// A round: prepare, verify, exchange, commit; one decision for all spans and groups.
#pragma once

#include <string>
#include <vector>

#include "federation/agreement.h"
#include "federation/frozen_copies.h"
#include "federation/outer_step.h"
#include "federation/participants.h"

namespace fomoe {

// Equal on all ranks, except for `own` and `drift`, which are equal within a group, and `stepped`.
struct RoundResult {
    bool committed = false;  // false: nothing has changed, to the bit
    int64_t round = 0;       // number of this round, from 1
    int groups = 0, contributed = 0;
    TrafficBytes counted, predicted;  // over all groups
    TrafficBytes own;                 // counted, this group's
    double seconds = 0;               // on this rank
    bool refreshed = false;           // frozen copies were exchanged
    double drift = 0;       // ||local - anchor|| / ||anchor||, shared class, before the step
    uint64_t checksum = 0;  // of all committed spans; 0 when nothing was committed
    bool stop = false;      // some rank was asked to stop
    // Where this rank holds what the round has stepped from an anchor, in the arena. Whole
    // parameters; without what one owner keeps as it is.
    std::vector<Range> stepped;
};

// What one rank keeps for the outer step, and how it takes part in it. With one group nothing is
// sent and the weights stay as they are.
class Federation {
public:
    // `world` and `link` outlive it. `group` has the ranks of this group, `replicas` those of them
    // that hold the same experts.
    Federation(const FederationConfig& config, const std::vector<Parameter>& all,
               const ArenaLayout& layout, const Placement& placement, const World& world,
               Link& link, Communicator& group, Communicator& replicas);
    Federation(const Federation&) = delete;
    Federation& operator=(const Federation&) = delete;

    // Anchor = these weights, momentum = 0, no rounds yet. weights (layout.size()) f32, in host
    // memory, the same in every owner of a span.
    void start(Tensor weights);

    // From now on every `every`-th committed round that exchanges experts refreshes the copies:
    // `values` (FrozenLayout::size) bf16, in host memory. Groups that do not contribute do not send
    // theirs. `copies` outlives the federation.
    void keep_frozen(FrozenCopies& copies, Tensor values, int every);
    // Committed rounds that have exchanged experts since the copies were refreshed, (1) i64: part
    // of the state.
    Tensor copies_age() { return view(&copies_age_, Shape(1)); }

    // Collective over all ranks of the federation. Only the classes that are `due` are exchanged
    // and may change. Weights that changed (`committed`) make derived
    // copies stale. Throws Error(communication) when a group stays silent, or when holders of a
    // span disagree after the commit; the message names the first parameter that differs. A rank
    // that was asked to stop says so here, since groups meet at no other place.
    RoundResult round(Tensor weights, const Classes& due = kAllClasses, bool stop = false);

    int64_t rounds() const { return rounds_; }  // committed
    void set_rounds(int64_t rounds) { rounds_ = rounds; }

    // The state for a checkpoint. To restore, fill anchor_lanes() and momentum() in place. To save,
    // union_model() and momentum() over all ranks are every element once: committed anchors, and
    // the weights themselves where one owner keeps no anchor.
    std::vector<StatePiece> anchor_lanes();
    std::vector<StatePiece> momentum();
    std::vector<StatePiece> union_model(Tensor weights);
    // Names of the parameters that have outer momentum, on any rank, in global order of the spans.
    std::vector<std::string> momentum_parameters() const;

    const std::vector<OwnedSpan>& spans() const { return spans_; }
    int64_t bytes() const;  // of anchors, momentum and staging on this rank, without wire buffers

private:
    Participants prepare(const float* weights, const Classes& due, bool stop, RoundResult& result);
    double measure_drift(const float* weights) const;
    bool stage(const float* weights, const Participants& participants);
    void commit(Tensor weights, const Participants& participants, RoundResult& result);
    void refresh_frozen(Tensor weights, const Participants& participants, RoundResult& result);
    void verify_copies(const float* weights, const Participants& participants, RoundResult& result);
    std::string first_difference(const float* weights, const OwnedSpan& span);
    int64_t control_words() const;

    const double reject_above_;
    const World& world_;
    Link& link_;
    Communicator& group_;
    Communicator& replicas_;
    Agreement agreement_;
    std::vector<OwnedSpan> spans_;
    std::vector<OuterStep> steps_;  // one per span
    WireBuffers buffers_;
    int64_t rounds_ = 0;

    FrozenCopies* frozen_ = nullptr;
    Tensor frozen_values_;
    int refresh_every_ = 1;
    int64_t copies_age_ = 0;
};

}  // namespace fomoe
