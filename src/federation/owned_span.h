// What the outer step works on: parameters of one class that the same groups own and, in each of
// them, the same ranks hold. A shared parameter is a parameter that everybody owns.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "model/parameters.h"

namespace fomoe {

// A run of a span that is also a run of this rank's arena.
struct SpanSegment {
    int64_t begin = 0;  // in the span
    int64_t arena = 0;  // in the arena
    int64_t count = 0;
};

// All ranks build the same spans; only the fields of the last block differ.
//
// A span is cut into lanes of equal length, as many as its smallest owner has holders; lane l is
// carried by holder l of every owner. Inside a lane every owner steps one chunk.
struct OwnedSpan {
    ParamClass cls = ParamClass::shared;
    std::vector<int> owners;                // groups, ascending
    std::vector<std::vector<int>> holders;  // (owners) ranks of the job, ascending
    std::vector<std::string> parameters;    // names, in global order
    std::vector<int64_t> begins;            // first element of each parameter
    std::vector<int> layers, experts;       // of each parameter, as in Parameter
    int64_t size = 0;                       // elements
    int lanes = 1;

    int owner = -1;                     // this rank's group among the owners, -1: not held here
    int holder = -1;                    // this rank among the holders of its group
    std::vector<SpanSegment> segments;  // ascending; tile the span where it is held

    int64_t end_of(size_t parameter) const {
        return parameter + 1 < begins.size() ? begins[parameter + 1] : size;
    }
    int n_owners() const { return static_cast<int>(owners.size()); }
    // The lane that this rank carries, or -1.
    int lane() const { return holder < lanes ? holder : -1; }
    Range lane_range(int lane) const { return cut(size, lanes, lane); }
    // What owner `owner` steps of the lane, in elements of the span.
    Range chunk(int lane, int owner) const;
    // The most elements of a chunk of the lane that one message carries; at least 1.
    int64_t fragment(int lane) const;
};

// In the order of their first parameters. `layout` is this rank's.
std::vector<OwnedSpan> owned_spans(const std::vector<Parameter>& all, const ArenaLayout& layout,
                                   const Placement& placement, const World& world);

// Calls f(parameter index in the span, first element of the parameter, range of the span) for every
// parameter that `range` touches.
template <class F>
void for_each_parameter(const OwnedSpan& span, Range range, F f) {
    for (size_t i = 0; i < span.parameters.size(); ++i) {
        const Range part{std::max(range.begin, span.begins[i]),
                         std::min(range.end, span.end_of(i))};
        if (part.begin < part.end) f(i, part.begin - span.begins[i], part);
    }
}

// Calls f(first element of the arena, range of the span) for every segment that `range` touches.
template <class F>
void for_each_segment(const OwnedSpan& span, Range range, F f) {
    for (const SpanSegment& segment : span.segments) {
        const Range part{std::max(range.begin, segment.begin),
                         std::min(range.end, segment.begin + segment.count)};
        if (part.begin < part.end) f(segment.arena + part.begin - segment.begin, part);
    }
}

// Copies a range of the span out of the arena, and into it.
void read_span(const OwnedSpan& span, Range range, const float* arena, float* out);
void write_span(const OwnedSpan& span, Range range, const float* in, float* arena);

}  // namespace fomoe
