// Fragment by fragment: contributions, step, results.
#include "federation/outer_step.h"

#include <algorithm>
#include <utility>

#include "federation/message.h"

namespace fomoe {

namespace {

ConstTensor bytes_at(const char* data, int64_t n) {
    FOMOE_CHECK(n % 4 == 0);
    return {data, DType::i32, Shape(n / 4)};
}
Tensor bytes_at(char* data, int64_t n) {
    FOMOE_CHECK(n % 4 == 0);
    return {data, DType::i32, Shape(n / 4)};
}

}  // namespace

OuterStep::OuterStep(const OwnedSpan& span, const OuterRule& rule, WireFormat format)
    : span_(span), rule_(rule), format_(format) {
    if (!rule.keeps_anchor) return;
    take_lane();
    anchor_.resize(lane_.size());
    if (rule.keeps_momentum()) {
        momentum_.resize(chunk_.size());
        staged_momentum_.resize(chunk_.size());
    }
}

OuterStep::OuterStep(const OwnedSpan& span, WireFormat format)
    : span_(span), rule_{.kind = OuterKind::average}, format_(format) {
    take_lane();
}

void OuterStep::take_lane() {
    if (span_.owner < 0 || span_.lane() < 0) return;
    lane_ = span_.lane_range(span_.lane());
    chunk_ = span_.chunk(span_.lane(), span_.owner);
    staged_.resize(lane_.size());
}

void OuterStep::follow(const OuterRule& rule) {
    FOMOE_CHECK(rule.kind == rule_.kind && rule.keeps_anchor == rule_.keeps_anchor);
    rule_ = rule;
}

int64_t OuterStep::bytes() const {
    return 4 * 2 * static_cast<int64_t>(anchor_.size() + momentum_.size());
}

void OuterStep::start(const float* arena) {
    read_span(span_, lane_, arena, anchor_.data());
    std::ranges::fill(momentum_, 0.0f);
}

bool OuterStep::contribution_finite(const float* arena) const {
    if (span_.owner < 0) return true;
    // Holders of one group hold the same values; each looks at its part.
    const auto n_holders = static_cast<int64_t>(span_.holders[span_.owner].size());
    bool finite = true;
    for_each_segment(span_, cut(span_.size, n_holders, span_.holder), [&](int64_t at, Range part) {
        finite = finite && all_finite(arena + at, part.size());
    });
    return finite;
}

void OuterStep::add_drift(const float* arena, double& difference, double& norm) const {
    for_each_segment(span_, lane_, [&](int64_t at, Range part) {
        const float* local = arena + at;
        const float* anchor = anchor_.data() + part.begin - lane_.begin;
        for (int64_t i = 0; i < part.size(); ++i) {
            const double d = static_cast<double>(local[i]) - anchor[i];
            difference += d * d;
            norm += static_cast<double>(anchor[i]) * anchor[i];
        }
    });
}

Range OuterStep::fragment(int owner, int64_t begin, int64_t length) const {
    const Range chunk = span_.chunk(span_.lane(), owner);
    return {std::min(chunk.begin + begin, chunk.end),
            std::min(chunk.begin + begin + length, chunk.end)};
}

Failure OuterStep::stage(Link& link, const Contributions& from, const float* arena,
                         WireBuffers& buffers) {
    if (!active()) return {};
    const int64_t longest = cut(lane_.size(), span_.n_owners(), 0).size();
    const int64_t length = span_.fragment(span_.lane());
    // Once: vectors that grow leave holes.
    const int64_t message = message_bytes(format_, length) * span_.n_owners();
    buffers.in.reserve(message);
    buffers.out.reserve(message);
    buffers.values.reserve(length * (span_.n_owners() + 1));
    Failure failure;
    for (int64_t begin = 0; begin < longest; begin += length) {
        exchange_contributions(link, from.groups, arena, begin, length, buffers);
        const Range part = fragment(span_.owner, begin, length);
        failure = worse(failure, step_chunk(part, from, buffers));
        // Also of damaged ones: the others wait for results.
        failure = worse(failure, exchange_results(link, begin, length, buffers));
    }
    const bool finite = all_finite(staged_.data() + chunk_.begin - lane_.begin, chunk_.size()) &&
                        all_finite(staged_momentum_.data(), std::ssize(staged_momentum_));
    return finite ? failure : worse(failure, {.kind = FailureKind::not_finite});
}

// Afterwards buffers.in holds the contributions to this owner's fragment, in owner order.
void OuterStep::exchange_contributions(Link& link, const std::vector<bool>& contributed,
                                       const float* arena, int64_t begin, int64_t length,
                                       WireBuffers& buffers) {
    const int lane = span_.lane();
    const Range own = fragment(span_.owner, begin, length);
    const int64_t own_bytes = message_bytes(format_, own.size());
    buffers.in.resize(own_bytes * span_.n_owners());
    buffers.out.resize(message_bytes(format_, length) * span_.n_owners());
    buffers.values.resize(length);

    std::vector<Send> sends;
    std::vector<Receive> receives;
    char *out = buffers.out.data(), *in = buffers.in.data();
    for (int owner = 0; owner < span_.n_owners(); ++owner) {
        const int peer = span_.holders[owner][lane];
        const Range part = fragment(owner, begin, length);
        const bool self = owner == span_.owner;
        if (contributed[span_.owners[span_.owner]] && part.size() > 0) {
            read_span(span_, part, arena, buffers.values.data());
            const int64_t bytes = message_bytes(format_, part.size());
            write_message(format_, buffers.values.data(), part.size(), self ? in : out);
            if (!self) sends.push_back({peer, bytes_at(std::as_const(out), bytes)});
            out += self ? 0 : bytes;
        }
        if (!contributed[span_.owners[owner]]) continue;
        if (!self && own_bytes > 0) receives.push_back({peer, bytes_at(in, own_bytes)});
        in += own_bytes;
    }
    link.exchange(traffic_of(span_.cls), sends, receives);
}

Failure OuterStep::step_chunk(Range part, const Contributions& from, WireBuffers& buffers) {
    const int64_t n = part.size();
    std::vector<int> senders;  // groups
    for (int group : span_.owners)
        if (from.groups[group]) senders.push_back(group);
    const int contributors = static_cast<int>(senders.size());
    std::vector<const float*> locals(contributors);
    const int64_t n_bytes = message_bytes(format_, n);
    Failure failure;
    buffers.values.resize(n * (contributors + 1));
    float* average = buffers.values.data();
    for (int i = 0; i < contributors; ++i) {
        float* local = average + (i + 1) * n;
        if (!read_message(format_, buffers.in.data() + i * n_bytes, n, local))
            failure = worse(failure, {.kind = FailureKind::damaged, .group = senders[i]});
        locals[i] = local;
    }
    for (const WeightRun& run : from.weights.runs(span_, part, from.groups)) {
        const int64_t first = run.range.begin - part.begin;
        std::vector<const float*> parts = locals;
        for (const float*& local : parts) local += first;
        weighted_average(parts, run.weights, run.range.size(), average + first);
    }

    const int64_t at = part.begin - lane_.begin, in_chunk = part.begin - chunk_.begin;
    if (from.products) from.products->add(span_.cls, senders, anchor_.data() + at, locals, n);
    const bool nesterov = rule_.keeps_momentum();
    outer_update(rule_,
                 {.anchor = anchor_.empty() ? nullptr : anchor_.data() + at,
                  .average = average,
                  .momentum = nesterov ? momentum_.data() + in_chunk : nullptr,
                  .next_anchor = staged_.data() + at,
                  .next_momentum = nesterov ? staged_momentum_.data() + in_chunk : nullptr},
                 n);
    return failure;
}

Failure OuterStep::exchange_results(Link& link, int64_t begin, int64_t length,
                                    WireBuffers& buffers) {
    const int lane = span_.lane();
    const Range own = fragment(span_.owner, begin, length);
    float* own_values = staged_.data() + own.begin - lane_.begin;
    const int64_t own_bytes = message_bytes(format_, own.size());
    write_message(format_, own_values, own.size(), buffers.out.data());
    // All owners go on from what the wire carried.
    read_message(format_, buffers.out.data(), own.size(), own_values);

    std::vector<Send> sends;
    std::vector<Receive> receives;
    struct Result {
        int group;
        Range part;
    };
    std::vector<Result> results;  // by receive
    buffers.in.resize(message_bytes(format_, length) * span_.n_owners());
    char* in = buffers.in.data();
    for (int owner = 0; owner < span_.n_owners(); ++owner) {
        if (owner == span_.owner) continue;
        const int peer = span_.holders[owner][lane];
        if (own_bytes > 0)
            sends.push_back({peer, bytes_at(std::as_const(buffers).out.data(), own_bytes)});
        const Range part = fragment(owner, begin, length);
        if (part.size() == 0) continue;
        const int64_t bytes = message_bytes(format_, part.size());
        receives.push_back({peer, bytes_at(in, bytes)});
        results.push_back({span_.owners[owner], part});
        in += bytes;
    }
    link.exchange(traffic_of(span_.cls), sends, receives);
    Failure failure;
    for (size_t i = 0; i < results.size(); ++i) {
        const auto& [group, part] = results[i];
        if (!read_message(format_, static_cast<const char*>(receives[i].data.data), part.size(),
                          staged_.data() + part.begin - lane_.begin))
            failure = worse(failure, {.kind = FailureKind::damaged, .group = group});
    }
    return failure;
}

void OuterStep::commit() {
    anchor_.swap(staged_);
    momentum_.swap(staged_momentum_);
}

void OuterStep::spread(Tensor arena, Communicator& holders) const {
    if (!rule_.keeps_anchor || span_.owner < 0) return;
    FOMOE_CHECK(
        holders.size() == std::ssize(span_.holders[span_.owner]) && holders.rank() == span_.holder,
        "the communicator is not that of the span's holders");
    write_span(span_, lane_, anchor_.data(), arena.as<float>());
    for (int lane = 0; lane < span_.lanes; ++lane)
        for_each_segment(span_, span_.lane_range(lane), [&](int64_t at, Range part) {
            holders.broadcast(arena.slice(at, part.size()), lane);
        });
}

std::vector<StatePiece> OuterStep::pieces(Range range, std::vector<float>& values,
                                          int64_t origin) const {
    std::vector<StatePiece> found;
    if (values.empty()) return found;
    for_each_parameter(span_, range, [&](size_t parameter, int64_t first, Range part) {
        found.push_back({.parameter = span_.parameters[parameter],
                         .begin = first,
                         .values = view(values.data() + part.begin - origin, Shape(part.size()))});
    });
    return found;
}

std::vector<StatePiece> OuterStep::anchor_lane() { return pieces(lane_, anchor_, lane_.begin); }
std::vector<StatePiece> OuterStep::anchor_chunk() { return pieces(chunk_, anchor_, lane_.begin); }
std::vector<StatePiece> OuterStep::momentum() { return pieces(chunk_, momentum_, chunk_.begin); }

}  // namespace fomoe
