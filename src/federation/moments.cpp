// Gather, exchange, take back.
#include "federation/moments.h"

#include <algorithm>

namespace fomoe {

namespace {

using Slice = InnerOptimizer::Slice;

// Calls f(first element of the arena, of the slice, elements) where the span lies in the slice.
template <class F>
void for_each_overlap(const OwnedSpan& span, const Slice& slice, F f) {
    for (const SpanSegment& segment : span.segments) {
        const int64_t begin = std::max(segment.arena, slice.begin);
        const int64_t end = std::min(segment.arena + segment.count, slice.begin + slice.size);
        if (begin < end) f(begin, begin - slice.begin, end - begin);
    }
}

}  // namespace

MomentAverage::MomentAverage(const std::vector<OwnedSpan>& spans, InnerOptimizer& optimizer,
                             Communicator& group, Communicator& replicas)
    : spans_(spans), optimizer_(optimizer), group_(group), replicas_(replicas) {}

bool MomentAverage::finite(const Participants& participants) const {
    bool finite = true;
    for (int moment = 0; moment < kMoments; ++moment) {
        if (!participants.moments[moment]) continue;
        for (const Slice& slice : optimizer_.slices()) {
            const OnHost values = optimizer_.moment_on_host(slice, moment);
            for (const OwnedSpan& span : spans_) {
                if (span.n_owners() == 1 || !participants.has(span.cls)) continue;
                for_each_overlap(span, slice, [&](int64_t, int64_t at, int64_t n) {
                    finite = finite && all_finite(values.tensor().as<float>() + at, n);
                });
            }
        }
    }
    return finite;
}

// A moment of everything that this rank holds, by its place in the arena.
std::vector<float> MomentAverage::gather(int moment) const {
    const ArenaLayout& layout = optimizer_.layout();
    std::vector<float> all(layout.size());
    for (size_t i = 0; i < layout.buckets.size(); ++i) {
        const ArenaBucket& bucket = layout.buckets[i];
        (bucket.experts ? replicas_ : group_)
            .all_gather(view(all.data() + bucket.begin, Shape(bucket.size)),
                        optimizer_.moment_on_host(optimizer_.slices()[i], moment).tensor());
    }
    return all;
}

Failure MomentAverage::stage(Link& link, const Participants& participants,
                             const ContributionWeights& weights, WireBuffers& buffers) {
    const Contributions from{.groups = participants.groups, .weights = weights};
    discard();
    Failure failure;
    const bool some = std::ranges::any_of(
        spans_, [&](const OwnedSpan& span) { return averages(span, participants); });
    for (int moment = 0; moment < kMoments && some; ++moment) {
        if (!participants.moments[moment]) continue;
        const std::vector<float> values = gather(moment);
        Staged& staged = staged_.emplace_back(Staged{.moment = moment, .steps = {}});
        for (const OwnedSpan& span : spans_) {
            if (!averages(span, participants)) continue;
            OuterStep& step = staged.steps.emplace_back(span, WireFormat::f32);
            failure = worse(failure, step.stage(link, from, values.data(), buffers));
        }
    }
    return failure;
}

void MomentAverage::commit() {
    std::vector<float> values(staged_.empty() ? 0 : optimizer_.layout().size());
    for (Staged& staged : staged_) {
        for (OuterStep& step : staged.steps) {
            step.commit();
            step.spread(view(values.data(), Shape(std::ssize(values))), holders(step.span()));
        }
        for (const Slice& slice : optimizer_.slices()) {
            OnHost moments = optimizer_.moment_on_host(slice, staged.moment);
            for (const OuterStep& step : staged.steps)
                for_each_overlap(step.span(), slice, [&](int64_t from, int64_t at, int64_t n) {
                    std::copy_n(values.data() + from, n, moments.tensor().as<float>() + at);
                });
            moments.write_back();
        }
    }
    discard();
}

int64_t MomentAverage::bytes() const {
    int64_t lanes = 0, several = 0;
    for (const OwnedSpan& span : spans_) {
        if (span.n_owners() == 1) continue;
        ++several;
        if (span.owner >= 0 && span.lane() >= 0) lanes += span.lane_range(span.lane()).size();
    }
    return several > 0 ? 4 * (optimizer_.layout().size() + kMoments * lanes) : 0;
}

}  // namespace fomoe
