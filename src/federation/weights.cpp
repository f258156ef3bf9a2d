// Counts into messages and weights.
#include "federation/weights.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fomoe {

namespace {

// Calls f(run of TrainedCounts::values()) for all that is told.
template <class F>
void for_each_told(const CountUse& use, const Classes& due, const TrainedCounts& counts, F f) {
    const bool rows = use.balance || (use.weights && use.by_owner);
    const bool tokens[] = {use.weights, use.weights, false};
    const bool choices[] = {false, rows, use.weights};
    for (size_t i = 0; i < due.size(); ++i) {
        if (!due[i]) continue;
        const int64_t at = counts.row_of(static_cast<ParamClass>(i));
        if (tokens[i]) f(Range{at, at + 1});
        if (choices[i]) f(Range{at + 1, at + 1 + counts.n_choices()});
    }
}

// In proportion to the amounts; equal when all are 0.
std::vector<float> shares(std::vector<int64_t> amounts) {
    int64_t sum = std::accumulate(amounts.begin(), amounts.end(), int64_t{0});
    if (sum == 0) {
        std::ranges::fill(amounts, 1);
        sum = std::ssize(amounts);
    }
    std::vector<float> weights;
    for (int64_t amount : amounts)
        weights.push_back(static_cast<float>(static_cast<double>(amount) / sum));
    return weights;
}

}  // namespace

void TrainedCounts::add(int64_t valid_tokens, std::span<const float> choices) {
    FOMOE_CHECK(std::ssize(choices) == n_choices(), choices.size(), " choices");
    for (ParamClass cls : {ParamClass::shared, ParamClass::router})
        values_[row_of(cls)] += valid_tokens;
    for (ParamClass cls : {ParamClass::router, ParamClass::expert})
        for (size_t i = 0; i < choices.size(); ++i)
            values_[row_of(cls) + 1 + i] += std::llround(choices[i]);
}

void TrainedCounts::restart(const OwnedSpan& span, int n_experts) {
    if (span.cls != ParamClass::expert) {
        std::fill_n(values_.begin() + row_of(span.cls), row_, 0);
        return;
    }
    for (size_t i = 0; i < span.parameters.size(); ++i)
        values_[row_of(span.cls) + 1 + span.layers[i] * n_experts + span.experts[i]] = 0;
}

std::vector<uint64_t> told_words(const CountUse& use, const Classes& due, TrainedCounts counts) {
    std::vector<uint64_t> words;
    for_each_told(use, due, counts, [&](Range part) {
        const auto told = counts.values().subspan(part.begin, part.size());
        words.insert(words.end(), told.begin(), told.end());
    });
    return words;
}

TrainedCounts heard_counts(const CountUse& use, const Classes& due, int64_t n_choices,
                           std::span<const uint64_t> words) {
    TrainedCounts counts(n_choices);
    for_each_told(use, due, counts, [&](Range part) {
        std::copy_n(words.begin(), part.size(), counts.values().begin() + part.begin);
        words = words.subspan(part.size());
    });
    FOMOE_CHECK(words.empty(), words.size(), " words too many");
    return counts;
}

std::vector<float> ContributionWeights::of_parameter(const OwnedSpan& span, size_t parameter,
                                                     const std::vector<int>& contributors) const {
    std::vector<int64_t> amounts;
    for (int group : contributors) {
        const TrainedCounts& counts = groups_[group];
        if (!use_.weights)
            amounts.push_back(1);
        else if (span.cls == ParamClass::expert)
            amounts.push_back(
                counts.choices(span.cls)[span.layers[parameter] * placement_.n_experts() +
                                         span.experts[parameter]]);
        else
            amounts.push_back(counts.tokens(span.cls));
    }
    return shares(std::move(amounts));
}

std::vector<float> ContributionWeights::of_row(int layer, int expert,
                                               const std::vector<int>& contributors,
                                               const std::vector<float>& otherwise) const {
    const std::vector<int> owners = placement_.owners(layer, expert);
    std::vector<size_t> places;  // of the owners among the contributors
    std::vector<int64_t> amounts;
    for (size_t i = 0; i < contributors.size(); ++i) {
        if (!std::ranges::binary_search(owners, contributors[i])) continue;
        const auto choices = groups_[contributors[i]].choices(ParamClass::router);
        places.push_back(i);
        amounts.push_back(use_.weights ? choices[layer * placement_.n_experts() + expert] : 1);
    }
    if (places.empty()) return otherwise;
    const std::vector<float> of_owners = shares(std::move(amounts));
    std::vector<float> weights(contributors.size());
    for (size_t i = 0; i < places.size(); ++i) weights[places[i]] = of_owners[i];
    return weights;
}

std::vector<WeightRun> ContributionWeights::runs(const OwnedSpan& span, Range range,
                                                 const std::vector<bool>& contributed) const {
    std::vector<int> contributors;
    for (int group : span.owners)
        if (contributed[group]) contributors.push_back(group);
    std::vector<WeightRun> runs;
    const auto add = [&](Range part, std::vector<float> weights) {
        if (!runs.empty() && runs.back().weights == weights)
            runs.back().range.end = part.end;
        else
            runs.push_back({part, std::move(weights)});
    };
    for_each_parameter(span, range, [&](size_t parameter, int64_t, Range part) {
        std::vector<float> weights = of_parameter(span, parameter, contributors);
        if (span.cls != ParamClass::router || !use_.by_owner) {
            add(part, std::move(weights));
            return;
        }
        // (E, D) of the router's matrix, (E) of the selection bias.
        const int64_t begin = span.begins[parameter];
        const int64_t row = (span.end_of(parameter) - begin) / placement_.n_experts();
        for (int64_t at = part.begin; at < part.end;) {
            const int expert = static_cast<int>((at - begin) / row);
            const int64_t end = std::min(part.end, begin + (expert + 1) * row);
            add({at, end}, of_row(span.layers[parameter], expert, contributors, weights));
            at = end;
        }
    });
    return runs;
}

}  // namespace fomoe
