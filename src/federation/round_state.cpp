// What a federation keeps from round to round, as checkpoints want it.
#include <algorithm>

#include "federation/round.h"

namespace fomoe {

Federation::StepByClass Federation::committed_steps(int64_t step) const {
    StepByClass steps;
    steps.fill(step);
    for (const OuterStep& outer : steps_) {
        const int cls = static_cast<int>(outer.span().cls);
        if (outer.rule().keeps_anchor) steps[cls] = committed_[cls];
    }
    return steps;
}

void Federation::write_anchors(Tensor weights) const {
    for (const OuterStep& step : steps_)
        step.spread(weights, step.span().cls == ParamClass::expert ? replicas_ : group_);
}

std::vector<StatePiece> Federation::anchor_lanes() {
    std::vector<StatePiece> all;
    for (OuterStep& step : steps_)
        for (StatePiece& piece : step.anchor_lane()) all.push_back(std::move(piece));
    return all;
}

std::vector<StatePiece> Federation::momentum() {
    std::vector<StatePiece> all;
    for (OuterStep& step : steps_)
        for (StatePiece& piece : step.momentum()) all.push_back(std::move(piece));
    return all;
}

std::vector<StatePiece> Federation::union_model(Tensor weights) {
    std::vector<StatePiece> all;
    for (OuterStep& step : steps_) {
        for (StatePiece& piece : step.anchor_chunk()) all.push_back(std::move(piece));
        const OwnedSpan& span = step.span();
        if (step.rule().keeps_anchor || span.owner < 0) continue;
        // One owner: its holders are the lanes.
        for_each_segment(span, span.lane_range(span.lane()), [&](int64_t at, Range run) {
            for_each_parameter(span, run, [&](size_t parameter, int64_t first, Range part) {
                all.push_back({.parameter = span.parameters[parameter],
                               .begin = first,
                               .values = weights.slice(at + part.begin - run.begin, part.size())});
            });
        });
    }
    return all;
}

std::vector<std::string> Federation::momentum_parameters() const {
    std::vector<std::string> names;
    for (const OuterStep& step : steps_)
        if (step.rule().keeps_momentum())
            names.insert(names.end(), step.span().parameters.begin(), step.span().parameters.end());
    return names;
}

int64_t Federation::bytes() const {
    int64_t total = 0;
    for (const OuterStep& step : steps_) total += step.bytes();
    return total + (moments_ ? moments_->bytes() : 0);
}

}  // namespace fomoe
