// How alike the groups are in a round: the directions they moved in, and the experts they choose.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "federation/agreement.h"
#include "model/parameters.h"

namespace fomoe {

using ByClass = std::array<std::optional<double>, 3>;  // by ParamClass; empty: no figure

// Products of the pseudo-gradients (anchor minus values) of every pair of groups, over the elements
// that both contributed to. Each element is added once, by the rank that steps it; the sums of
// ranks and groups add up.
class PairProducts {
public:
    explicit PairProducts(int n_groups) : n_groups_(n_groups), sums_(3 * n_pairs(n_groups)) {}

    static constexpr size_t n_words(int n_groups) { return 9 * n_pairs(n_groups); }

    // values[i] (n) are those of groups[i], ascending.
    void add(ParamClass cls, std::span<const int> groups, const float* anchor,
             std::span<const float* const> values, int64_t n);
    void add(std::span<const uint64_t> words);  // what words() gave elsewhere
    Words words() const;

    // dot / (norm norm), the mean over the pairs whose norms are above 0.
    ByClass cosines() const;

private:
    struct Sums {
        double dot = 0, first = 0, second = 0;  // <g, h>, <g, g>, <h, h>
    };
    static constexpr size_t n_pairs(int n) { return static_cast<size_t>(n) * (n - 1) / 2; }
    Sums& of(ParamClass cls, int first, int second);  // first < second

    int n_groups_;
    std::vector<Sums> sums_;  // (3, pairs) (0, 1), (0, 2) ... (1, 2) ...
};

// What a group's weights choose on a probe: (tokens of all MoE layers, top_k) expert ids.
struct ProbeChoices {
    std::vector<uint16_t> experts;
    int top_k = 1;
};

// Expert ids on the wire: four in a word.
size_t packed_words(size_t n_ids);
Words packed(std::span<const uint16_t> ids);
std::vector<uint16_t> unpacked(std::span<const uint64_t> words, size_t n_ids);

// ids[g] (rows, top_k) are those of group g, different ones in a row. The share of its choices that
// a row has in common with that of another group, as a mean over rows and pairs of groups.
std::optional<double> routing_agreement(const std::vector<std::vector<uint16_t>>& ids, int top_k);

}  // namespace fomoe
