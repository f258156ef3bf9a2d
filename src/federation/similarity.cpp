#include "federation/similarity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace fomoe {

PairProducts::Sums& PairProducts::of(ParamClass cls, int first, int second) {
    const size_t before = n_pairs(n_groups_) - n_pairs(n_groups_ - first);
    return sums_[static_cast<int>(cls) * n_pairs(n_groups_) + before + second - first - 1];
}

void PairProducts::add(ParamClass cls, std::span<const int> groups, const float* anchor,
                       std::span<const float* const> values, int64_t n) {
    const auto product = [&](size_t g, size_t h) {
        const auto term = [&](int64_t i) {
            return (double{anchor[i]} - values[g][i]) * (double{anchor[i]} - values[h][i]);
        };
        // Several sums, so that one addition need not wait for the one before.
        std::array<double, 8> sums{};
        int64_t i = 0;
        for (; i + 8 <= n; i += 8)
            for (int j = 0; j < 8; ++j) sums[j] += term(i + j);
        for (; i < n; ++i) sums[0] += term(i);
        return std::accumulate(sums.begin(), sums.end(), 0.0);
    };
    std::vector<double> squares;
    for (size_t g = 0; g < groups.size() && groups.size() > 1; ++g)
        squares.push_back(product(g, g));
    for (size_t g = 0; g < groups.size(); ++g)
        for (size_t h = g + 1; h < groups.size(); ++h) {
            Sums& sums = of(cls, groups[g], groups[h]);
            sums.dot += product(g, h);
            sums.first += squares[g];
            sums.second += squares[h];
        }
}

void PairProducts::add(std::span<const uint64_t> words) {
    FOMOE_CHECK(words.size() == n_words(n_groups_));
    for (size_t i = 0; i < sums_.size(); ++i) {
        sums_[i].dot += std::bit_cast<double>(words[3 * i]);
        sums_[i].first += std::bit_cast<double>(words[3 * i + 1]);
        sums_[i].second += std::bit_cast<double>(words[3 * i + 2]);
    }
}

Words PairProducts::words() const {
    Words words;
    for (const Sums& sums : sums_)
        for (double x : {sums.dot, sums.first, sums.second})
            words.push_back(std::bit_cast<uint64_t>(x));
    return words;
}

ByClass PairProducts::cosines() const {
    ByClass means;
    const size_t pairs = n_pairs(n_groups_);
    for (size_t cls = 0; cls < means.size(); ++cls) {
        double sum = 0;
        int counted = 0;
        for (size_t i = 0; i < pairs; ++i) {
            const Sums& pair = sums_[cls * pairs + i];
            if (pair.first <= 0 || pair.second <= 0) continue;
            sum += pair.dot / (std::sqrt(pair.first) * std::sqrt(pair.second));
            ++counted;
        }
        if (counted > 0) means[cls] = sum / counted;
    }
    return means;
}

size_t packed_words(size_t n_ids) { return (n_ids + 3) / 4; }

Words packed(std::span<const uint16_t> ids) {
    Words words(packed_words(ids.size()));
    for (size_t i = 0; i < ids.size(); ++i) words[i / 4] |= uint64_t{ids[i]} << (16 * (i % 4));
    return words;
}

std::vector<uint16_t> unpacked(std::span<const uint64_t> words, size_t n_ids) {
    FOMOE_CHECK(words.size() == packed_words(n_ids));
    std::vector<uint16_t> ids(n_ids);
    for (size_t i = 0; i < n_ids; ++i)
        ids[i] = static_cast<uint16_t>(words[i / 4] >> (16 * (i % 4)));
    return ids;
}

std::optional<double> routing_agreement(const std::vector<std::vector<uint16_t>>& ids, int top_k) {
    int64_t common = 0, all = 0;
    for (size_t g = 0; g < ids.size(); ++g)
        for (size_t h = g + 1; h < ids.size(); ++h) {
            FOMOE_CHECK(ids[g].size() == ids[h].size() && ids[g].size() % top_k == 0);
            for (size_t i = 0; i < ids[g].size(); ++i) {
                const auto row = ids[h].begin() + static_cast<int64_t>(i / top_k) * top_k;
                common += std::count(row, row + top_k, ids[g][i]);
                ++all;
            }
        }
    if (all == 0) return {};
    return static_cast<double>(common) / static_cast<double>(all);
}

}  // namespace fomoe
