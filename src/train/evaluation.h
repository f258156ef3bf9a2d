// Held-out loss during the run: of the union, which no group holds, and of the groups' own models.
#pragma once

#include <functional>

#include "eval/score.h"
#include "train/metrics.h"
#include "train/run_state.h"

namespace fomoe {

class TrainingEvaluation {
public:
    // All outlive it.
    TrainingEvaluation(const RunState& run, Link& link, GroupCommunicators& ranks,
                       Backend& backend);

    // After every federation.evaluate_every committed rounds, and after the run's last. Not where
    // the values of some group were not finite: then there is no union.
    bool due(const RoundResult& round, int64_t step) const;

    // Collective over the federation, right after a round of these classes. Changes no state. The
    // experts that a group lacks come to it in bf16, for as long as this takes. All ranks share the
    // union's sequences, those of a group its own model's; groups wait for each other at the end,
    // for federation.exchange_timeout. A group of which a rank is `asked` to stop gives up, and the
    // results are empty then. Throws Error(communication) when a group stays silent.
    EvaluationMetrics run(const RoundResult& round, const Classes& exchanged, int64_t step,
                          const std::function<bool()>& asked);

    // Where copies of all experts that the group lacks would lie.
    const FrozenLayout& copies() const { return layout_of_copies_; }

private:
    bool gives_up();
    std::vector<Score> score(Transformer& model, int parts, int part);
    std::vector<std::vector<Score>> share(const std::vector<Score>& mine,
                                          EvaluationMetrics& result);

    const RunState run_;
    Link& link_;
    Communicator& group_;
    Communicator& expert_parallel_;
    Backend& backend_;
    const ValidLoader data_;
    const Scorer scorer_;
    const bool own_models_;  // they are not the union
    const FrozenLayout layout_of_copies_;
    FrozenCopies copies_;
    Agreement agreement_;
    std::function<bool()> asked_;
    bool given_up_ = false;  // the evaluation at work
};

}  // namespace fomoe
