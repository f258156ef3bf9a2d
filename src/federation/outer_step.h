// The outer step of one span on one rank: reduce-scatter among the owners, the outer optimizer on
// this owner's chunk, all-gather; into a staging area that a commit makes the anchor.
#pragma once

#include <vector>

#include "federation/failure.h"
#include "federation/link.h"
#include "federation/outer_optimizer.h"
#include "federation/similarity.h"
#include "federation/weights.h"

namespace fomoe {

// Elements of a parameter, in memory of the federation.
struct StatePiece {
    std::string parameter;
    int64_t begin = 0;  // first element of the parameter
    Tensor values;      // (n) f32
};

// Buffers for messages, shared by all spans of a rank.
struct WireBuffers {
    std::vector<char> out, in;
    std::vector<float> values;
};

// Whose values spans are stepped from.
struct Contributions {
    const std::vector<bool>& groups;  // that contribute, by group
    const ContributionWeights& weights;
    PairProducts* products = nullptr;  // gathers how alike the contributions are
};

class OuterStep {
public:
    OuterStep(const OwnedSpan& span, const OuterRule& rule, WireFormat format);
    // Averages once, without an anchor from before: the first call is stage().
    OuterStep(const OwnedSpan& span, WireFormat format);

    const OwnedSpan& span() const { return span_; }
    const OuterRule& rule() const { return rule_; }
    // Another rate and momentum; the state stays.
    void follow(const OuterRule& rule);
    // This rank carries a lane of a span that has an anchor.
    bool active() const { return lane_.size() > 0; }
    int64_t bytes() const;  // of anchor, momentum and staging

    // The anchor becomes what the arena holds, the momentum 0.
    void start(const float* arena);
    // Whether what this rank contributes is finite.
    bool contribution_finite(const float* arena) const;
    // Adds ||local - anchor||^2 and ||anchor||^2 of this rank's lane.
    void add_drift(const float* arena, double& difference, double& norm) const;

    // Stages the next anchor and momentum; says when they are not finite, or when a message arrived
    // damaged. Changes nothing else. At least one owner contributes.
    Failure stage(Link& link, const Contributions& from, const float* arena, WireBuffers& buffers);
    // Makes the staged values anchor and momentum.
    void commit();
    // Writes this rank's lane of the anchor into the arena; the other lanes come from the other
    // holders of the group (`holders`: the communicator of exactly these).
    void spread(Tensor arena, Communicator& holders) const;

    // Views of the state; empty when there is none. The chunk is what this owner steps: over all
    // ranks, the chunks are every element of the span once.
    std::vector<StatePiece> anchor_lane();
    std::vector<StatePiece> anchor_chunk();
    std::vector<StatePiece> momentum();

private:
    void take_lane();
    void exchange_contributions(Link& link, const std::vector<bool>& contributed,
                                const float* arena, int64_t begin, int64_t length,
                                WireBuffers& buffers);
    Failure step_chunk(Range part, const Contributions& from, WireBuffers& buffers);
    Failure exchange_results(Link& link, int64_t begin, int64_t length, WireBuffers& buffers);
    Range fragment(int owner, int64_t begin, int64_t length) const;
    std::vector<StatePiece> pieces(Range range, std::vector<float>& values, int64_t origin) const;

    const OwnedSpan& span_;
    OuterRule rule_;
    WireFormat format_;
    Range lane_{}, chunk_{};                         // of the span; empty when not active
    std::vector<float> anchor_, staged_;             // the lane
    std::vector<float> momentum_, staged_momentum_;  // the chunk
};

}  // namespace fomoe
