// Sorts the parameter table into spans.
#include "federation/owned_span.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>

namespace fomoe {

namespace {

// Of the message buffers of one direction, all peers together: they stay small, whatever the size
// of the span.
constexpr int64_t kBufferElements = int64_t{1} << 22;

}  // namespace

Range OwnedSpan::chunk(int lane, int owner) const {
    const Range whole = lane_range(lane);
    const Range part = cut(whole.size(), n_owners(), owner);
    return {whole.begin + part.begin, whole.begin + part.end};
}

int64_t OwnedSpan::fragment(int lane) const {
    const int64_t longest = cut(lane_range(lane).size(), n_owners(), 0).size();
    return std::max<int64_t>(std::min(longest, kBufferElements / n_owners()), 1);
}

std::vector<OwnedSpan> owned_spans(const std::vector<Parameter>& all, const ArenaLayout& layout,
                                   const Placement& placement, const World& world) {
    std::unordered_map<std::string, int64_t> arena;
    for (const Parameter& parameter : layout.parameters) arena[parameter.name] = parameter.offset;

    using Key = std::tuple<ParamClass, std::vector<int>, std::vector<std::vector<int>>>;
    std::map<Key, size_t> index;
    std::vector<OwnedSpan> spans;
    for (const Parameter& parameter : all) {
        std::vector<std::vector<int>> holders;
        for (int group : parameter.owners) {
            int slot = -1, residents = 0;
            if (parameter.cls == ParamClass::expert) {
                slot = placement.slot(parameter.layer, group, parameter.expert);
                residents = static_cast<int>(placement.residents(parameter.layer, group).size());
            }
            holders.push_back(world.holders(group, slot, residents));
        }
        const Key key{parameter.cls, parameter.owners, holders};
        const auto [found, is_new] = index.try_emplace(key, spans.size());
        if (is_new) {
            OwnedSpan& span = spans.emplace_back();
            span.cls = parameter.cls;
            span.owners = parameter.owners;
            span.lanes = static_cast<int>(holders[0].size());
            for (size_t owner = 0; owner < holders.size(); ++owner) {
                const std::vector<int>& ranks = holders[owner];
                span.lanes = std::min(span.lanes, static_cast<int>(ranks.size()));
                const auto self = std::ranges::find(ranks, world.rank);
                if (self == ranks.end()) continue;
                span.owner = static_cast<int>(owner);
                span.holder = static_cast<int>(self - ranks.begin());
            }
            span.holders = std::move(holders);
        }

        OwnedSpan& span = spans[found->second];
        const auto held = arena.find(parameter.name);
        FOMOE_CHECK((held != arena.end()) == (span.owner >= 0), "placement and arena disagree on ",
                    parameter.name);
        if (held != arena.end()) {
            SpanSegment* last = span.segments.empty() ? nullptr : &span.segments.back();
            if (last && last->arena + last->count == held->second)
                last->count += parameter.count();
            else
                span.segments.push_back({span.size, held->second, parameter.count()});
        }
        span.parameters.push_back(parameter.name);
        span.begins.push_back(span.size);
        span.layers.push_back(parameter.layer);
        span.experts.push_back(parameter.expert);
        span.size += parameter.count();
    }
    return spans;
}

void read_span(const OwnedSpan& span, Range range, const float* arena, float* out) {
    for_each_segment(span, range, [&](int64_t at, Range part) {
        std::copy_n(arena + at, part.size(), out + part.begin - range.begin);
    });
}

void write_span(const OwnedSpan& span, Range range, const float* in, float* arena) {
    for_each_segment(span, range, [&](int64_t at, Range part) {
        std::copy_n(in + part.begin - range.begin, part.size(), arena + at);
    });
}

}  // namespace fomoe
