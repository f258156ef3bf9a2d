// The stages of a round, in order.
#include "federation/round.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/timer.h"
#include "federation/meeting.h"

namespace fomoe {

namespace {

constexpr WireFormat kFormat = WireFormat::f32;
constexpr size_t kStatusWords = 3;  // finite, rounds, squared norm
constexpr size_t kStagedWords = 1;  // failure

constexpr uint64_t kDiffers = ~uint64_t{0};  // in place of a hash

// XXH3 of a range of the span, in span order; never 0 nor kDiffers.
uint64_t hash_of(const OwnedSpan& span, Range range, const float* arena) {
    XXH3_state_t* state = XXH3_createState();
    XXH3_64bits_reset(state);
    for_each_segment(span, range, [&](int64_t at, Range part) {
        XXH3_64bits_update(state, arena + at, part.size() * sizeof(float));
    });
    const uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return (hash >> 1) + 1;
}

// One column of hashes, 0 where a rank does not hold the content: the hash all agree on, or
// kDiffers.
uint64_t agree(std::span<const Words> rows, size_t column) {
    uint64_t hash = 0;
    for (const Words& row : rows) {
        if (row[column] == 0) continue;
        if (hash != 0 && hash != row[column]) return kDiffers;
        hash = row[column];
    }
    return hash;
}

}  // namespace

int64_t round_control_words(const CountUse& use, const Classes& due, int64_t n_choices,
                            size_t probe_ids, size_t n_spans, int n_groups) {
    const size_t counts = told_words(use, due, TrainedCounts(n_choices)).size();
    return static_cast<int64_t>(kMeetingWords + kStatusWords + counts + packed_words(probe_ids) +
                                kStagedWords + n_spans + kTrafficWords +
                                PairProducts::n_words(n_groups));
}

Federation::Federation(const FederationConfig& config, const std::vector<Parameter>& all,
                       const ArenaLayout& layout, const Placement& placement, const World& world,
                       Link& link, Communicator& group, Communicator& replicas,
                       const ModelConfig& model)
    : reject_above_(config.reject_above),
      world_(world),
      link_(link),
      group_(group),
      replicas_(replicas),
      placement_(placement),
      use_(config, model.moe),
      agreement_(world, link),
      spans_(owned_spans(all, layout, placement, world)),
      counts_(int64_t{model.n_layers} * model.moe.n_experts),
      exchanged_choices_(counts_.n_choices()) {
    for (const OwnedSpan& span : spans_)
        steps_.emplace_back(span, outer_rule(config, span.cls, span.n_owners()), kFormat);
}

void Federation::start(ConstTensor weights) {
    for (OuterStep& step : steps_) step.start(weights.as<float>());
    rounds_ = copies_age_ = 0;
    counts_ = TrainedCounts(counts_.n_choices());
    std::ranges::fill(exchanged_choices_, 0);
}

void Federation::keep_frozen(FrozenCopies& copies, Tensor values, int every) {
    frozen_ = &copies;
    frozen_values_ = values;
    refresh_every_ = every;
}

void Federation::follow(const FederationConfig& config) {
    for (OuterStep& step : steps_)
        step.follow(outer_rule(config, step.span().cls, step.span().n_owners()));
}

void Federation::count(int64_t valid_tokens, std::span<const float> choices) {
    counts_.add(valid_tokens, choices);
}

// Of the classes that are due all that is held: it is checked, exchanged and hashed. The drift is
// that of the shared class in any round.
std::vector<Range> Federation::reads(const Classes& due) const {
    std::vector<Range> all;
    for (const OuterStep& step : steps_) {
        const OwnedSpan& span = step.span();
        const bool drifts = span.cls == ParamClass::shared && step.active();
        if (!due[static_cast<int>(span.cls)] && !drifts) continue;
        for (const SpanSegment& segment : span.segments)
            all.push_back({segment.arena, segment.arena + segment.count});
    }
    return all;
}

RoundResult Federation::round(Tensor weights, const RoundInput& input) {
    FOMOE_CHECK(moments_ || input.moments == kNoMoments, "the moments are not known");
    const Timer timer;
    const float* arena = weights.as<float>();
    if (!input.met) link_.ledger().begin_round();

    RoundResult result;
    const Participants participants =
        prepare(arena, {.classes = input.due, .moments = input.moments, .groups = {}}, result);
    result.round = rounds_ + 1;
    result.groups = world_.n_groups();
    result.contributed = static_cast<int>(std::ranges::count(participants.groups, true));
    result.drift = measure_drift(arena);
    result.agreement = compare(input.probe);

    PairProducts products(result.groups);
    result.failure = stage(arena, participants, products);
    result.committed = result.failure == Failure{};
    if (result.committed) {
        commit(weights, participants, result);
        refresh_frozen(weights, participants, result);
    } else if (moments_) {
        moments_->discard();
    }
    verify_copies(arena, participants, products, result);
    const int64_t control_words =
        round_control_words(use_, input.due, counts_.n_choices(), input.probe.experts.size(),
                            spans_.size(), world_.n_groups()) -
        (input.met ? 0 : kMeetingWords);
    for (const TrafficBytes& bytes : predict_round(spans_, participants, control_words, kFormat))
        result.predicted += bytes;
    for (int64_t n = std::ranges::count(input.moments, true); n > 0; --n)
        for (const TrafficBytes& bytes : predict_round(spans_, participants, 0, kFormat))
            result.predicted += bytes;
    result.seconds = timer.seconds();
    return result;
}

// Which groups contribute: those whose every rank found its part finite, unless their norm is out
// of line. Every group judges all by the same words. Behind them come a group's counts.
Participants Federation::prepare(const float* weights, Participants participants,
                                 RoundResult& result) {
    bool finite = !moments_ || moments_->finite(participants);
    double squared = 0, squared_anchor = 0;
    for (const OuterStep& step : steps_) {
        if (!participants.has(step.span().cls)) continue;
        finite = finite && step.contribution_finite(weights);
        if (reject_above_ > 0) step.add_drift(weights, squared, squared_anchor);
    }
    const Words counts = told_words(use_, participants.classes, counts_);
    const std::vector<Words> groups =
        agreement_.share({finite, static_cast<uint64_t>(rounds_), std::bit_cast<uint64_t>(squared)},
                         kStatusWords + counts.size(), [&](std::span<const Words> rows) {
                             Words all = rows[0];
                             double sum = 0;
                             for (const Words& row : rows) {
                                 all[0] = all[0] && row[0];
                                 sum += std::bit_cast<double>(row[2]);
                             }
                             all[2] = std::bit_cast<uint64_t>(sum);
                             all.insert(all.end(), counts.begin(), counts.end());
                             return all;
                         });
    std::vector<Offer> offers;
    heard_.clear();
    for (const Words& status : groups) {
        FOMOE_CHECK(status[1] == groups[0][1], "the groups are in rounds ", status[1], " and ",
                    groups[0][1]);
        offers.push_back(
            {.finite = status[0] != 0, .norm = std::sqrt(std::bit_cast<double>(status[2]))});
        result.finite = result.finite && status[0] != 0;
        heard_.push_back(heard_counts(use_, participants.classes, counts_.n_choices(),
                                      std::span(status).subspan(kStatusWords)));
    }
    participants.groups = contributors(offers, reject_above_);
    return participants;
}

double Federation::measure_drift(const float* weights) const {
    double sums[2] = {0, 0};
    for (const OuterStep& step : steps_)
        if (step.span().cls == ParamClass::shared) step.add_drift(weights, sums[0], sums[1]);
    group_.all_reduce_sum(view(sums, Shape(2)));
    return sums[1] > 0 ? std::sqrt(sums[0] / sums[1]) : 0;
}

std::optional<double> Federation::compare(const ProbeChoices& probe) {
    if (probe.experts.empty()) return {};
    const Words mine = packed(probe.experts);
    std::vector<std::vector<uint16_t>> groups;
    for (const Words& words :
         agreement_.share(mine, mine.size(), [](std::span<const Words> rows) { return rows[0]; }))
        groups.push_back(unpacked(words, probe.experts.size()));
    return routing_agreement(groups, probe.top_k);
}

// What any rank of any group found wrong; the same on all.
Failure Federation::stage(const float* weights, const Participants& participants,
                          PairProducts& products) {
    const ContributionWeights shares(use_, placement_, heard_);
    const Contributions from{
        .groups = participants.groups, .weights = shares, .products = &products};
    Failure failure;
    if (std::ranges::count(participants.groups, true) == 0)
        failure.kind = FailureKind::no_contribution;
    for (OuterStep& step : steps_)
        if (participants.step(step.span()))
            failure = worse(failure, step.stage(link_, from, weights, buffers_));
    if (moments_) failure = worse(failure, moments_->stage(link_, participants, shares, buffers_));
    const auto worst = [](std::span<const Words> rows) {
        Failure found;
        for (const Words& row : rows) found = worse(found, failure_of(row[0]));
        return Words{word_of(found)};
    };
    return failure_of(worst(agreement_.share({word_of(failure)}, kStagedWords, worst))[0]);
}

void Federation::commit(Tensor weights, const Participants& participants, RoundResult& result) {
    for (OuterStep& step : steps_) {
        const OwnedSpan& span = step.span();
        if (!participants.step(span)) continue;
        step.commit();
        counts_.restart(span, placement_.n_experts());
        step.spread(weights, span.cls == ParamClass::expert ? replicas_ : group_);
        if (!step.rule().keeps_anchor) continue;
        for (const SpanSegment& segment : span.segments)
            result.stepped.push_back({segment.arena, segment.arena + segment.count});
    }
    if (moments_) moments_->commit();
    if (use_.balance && participants.has(ParamClass::router)) {
        std::ranges::fill(exchanged_choices_, 0);
        for (const TrainedCounts& group : heard_)
            std::ranges::transform(exchanged_choices_, group.choices(ParamClass::router),
                                   exchanged_choices_.begin(), std::plus());
    }
    ++rounds_;
}

void Federation::refresh_frozen(Tensor weights, const Participants& participants,
                                RoundResult& result) {
    if (!frozen_ || !participants.has(ParamClass::expert)) return;
    if (++copies_age_ < refresh_every_) return;
    frozen_->exchange(weights, frozen_values_, participants.groups);
    for (const TrafficBytes& bytes : frozen_->predict(participants.groups))
        result.predicted += bytes;
    result.refreshed = true;
    copies_age_ = 0;
}

// Holders of every committed span show the hash of what they hold. The same message carries what
// each group has counted, its own bytes, known beforehand, included; and the products of pairs.
void Federation::verify_copies(const float* weights, const Participants& participants,
                               const PairProducts& products, RoundResult& result) {
    Words mine;
    for (const OwnedSpan& span : spans_) {
        const bool shown = result.committed && span.owner >= 0 && participants.step(span);
        mine.push_back(shown ? hash_of(span, {0, span.size}, weights) : 0);
    }
    const size_t n = spans_.size(), n_pairs = PairProducts::n_words(world_.n_groups());
    const size_t n_words = n + kTrafficWords + n_pairs;
    const Words counted = words_of(link_.ledger().round()), sums = products.words();
    mine.insert(mine.end(), counted.begin(), counted.end());
    mine.insert(mine.end(), sums.begin(), sums.end());
    const auto merge = [&](std::span<const Words> rows) {
        Words said;
        for (size_t span = 0; span < n; ++span) said.push_back(agree(rows, span));
        TrafficBytes bytes;
        PairProducts pairs(world_.n_groups());
        for (const Words& row : rows) {
            bytes += bytes_of(std::span(row).subspan(n, kTrafficWords));
            pairs.add(std::span(row).last(n_pairs));
        }
        const int control = static_cast<int>(Traffic::control);
        bytes.sent[control] += 8 * n_words * (world_.n_groups() - 1);
        bytes.received[control] += 8 * n_words * (world_.n_groups() - 1);
        for (const Words& words : {words_of(bytes), pairs.words()})
            said.insert(said.end(), words.begin(), words.end());
        return said;
    };
    const std::vector<Words> groups = agreement_.share(mine, n_words, merge);

    Words hashes;
    for (size_t i = 0; i < n; ++i) {
        hashes.push_back(agree(groups, i));
        if (hashes.back() == kDiffers)
            throw Error(Exit::communication,
                        concat("after round ", result.round, " the copies of ",
                               first_difference(weights, spans_[i]), " differ"));
    }
    PairProducts all(world_.n_groups());
    for (const Words& group : groups) {
        result.counted += bytes_of(std::span(group).subspan(n, kTrafficWords));
        all.add(std::span(group).last(n_pairs));
    }
    result.own = bytes_of(std::span(groups[world_.group]).subspan(n, kTrafficWords));
    if (result.committed) result.cosine = all.cosines();
    if (result.committed) result.checksum = XXH3_64bits(hashes.data(), n * sizeof(uint64_t));
}

// The first parameter of a span whose copies differ, and between whom. Collective.
std::string Federation::first_difference(const float* weights, const OwnedSpan& span) {
    const size_t n = span.parameters.size();
    Words mine(n, 0);
    if (span.owner >= 0)
        for_each_parameter(span, {0, span.size}, [&](size_t parameter, int64_t, Range part) {
            mine[parameter] = hash_of(span, part, weights);
        });
    const std::vector<Words> groups = agreement_.share(mine, n, [&](std::span<const Words> rows) {
        Words said;
        for (size_t parameter = 0; parameter < n; ++parameter)
            said.push_back(agree(rows, parameter));
        return said;
    });
    for (size_t parameter = 0; parameter < n; ++parameter) {
        for (size_t group = 0; group < groups.size(); ++group)
            if (groups[group][parameter] == kDiffers)
                return concat(span.parameters[parameter], " inside group '",
                              world_.groups[group].name, "'");
        if (agree(groups, parameter) == kDiffers) {
            std::string owners;
            for (int group : span.owners)
                owners += concat(owners.empty() ? "" : ", ", "'", world_.groups[group].name, "'");
            return concat(span.parameters[parameter], " in the groups ", owners);
        }
    }
    return span.parameters.front();
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
