// Two union models on the same held-out text.
#pragma once

#include "eval/score.h"
#include "eval/union_model.h"

namespace fomoe {

// By source, of the segments of the sequences that this rank takes.
using SegmentLosses = std::vector<std::vector<SegmentLoss>>;

// Of the model in use. Collective over its ranks.
SegmentLosses segment_losses(UnionModel& model, const ValidLoader& data,
                             const Tokenizer& tokenizer);

// In `difference` the first's losses less the second's stand for losses, segment by segment, so
// that its standard errors are those of the paired difference.
struct Comparison {
    Evaluation first, second, difference;
};

// Collective: every rank brings what segment_losses() gave it for both models, and all get the
// result.
Comparison compare(const SegmentLosses& first, const SegmentLosses& second, const ValidLoader& data,
                   Communicator& ranks);

// Throws Error(usage) unless the second's model reads the first's text: the same tokenizer, ids and
// document mask.
void check_comparable(const Config& first, const Config& second);

}  // namespace fomoe
