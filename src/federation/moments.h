// AdamW's moments as part of a round: averaged among the owners, as the parameters they belong to.
#pragma once

#include <optional>
#include <vector>

#include "federation/outer_step.h"
#include "federation/participants.h"
#include "optim/inner_optimizer.h"

namespace fomoe {

// The moments lie in slices over the ranks of a group, while a span's lane is carried by one
// holder: they are gathered inside the group, exchanged like weights, and each rank takes back its
// slice. All of it is in host memory, apart from the moments, and lives during the
// round only.
class MomentAverage {
public:
    // All outlive it. `group` has the ranks of this group, `replicas` those of them that hold the
    // same experts.
    MomentAverage(const std::vector<OwnedSpan>& spans, InnerOptimizer& optimizer,
                  Communicator& group, Communicator& replicas);

    // Whether this rank's slices of what would be averaged are finite.
    bool finite(const Participants& participants) const;
    // Stages the averages of the moments that take part, of the spans that are stepped and have
    // several owners. Changes no moment. Collective like OuterStep::stage.
    Failure stage(Link& link, const Participants& participants, const ContributionWeights& weights,
                  WireBuffers& buffers);
    // Makes what is staged the moments of all owners; a group that was left out has them too.
    void commit();
    // Forgets what is staged.
    void discard() { staged_.clear(); }

    int64_t bytes() const;  // at most, in a round that averages both

private:
    struct Staged {
        int moment;
        std::vector<OuterStep> steps;
    };
    bool averages(const OwnedSpan& span, const Participants& participants) const {
        return span.n_owners() > 1 && participants.step(span);
    }
    Communicator& holders(const OwnedSpan& span) const {
        return span.cls == ParamClass::expert ? replicas_ : group_;
    }
    std::vector<float> gather(int moment) const;

    const std::vector<OwnedSpan>& spans_;
    InnerOptimizer& optimizer_;
    Communicator& group_;
    Communicator& replicas_;
    std::vector<Staged> staged_;
};

}  // namespace fomoe
