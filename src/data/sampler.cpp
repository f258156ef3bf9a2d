#include "data/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "base/random.h"

namespace fomoe {
namespace {

constexpr int kRounds = 6;
constexpr double kWeightUnit = 0x1p40;

__extension__ using Wide = unsigned __int128;

}  // namespace

Permutation::Permutation(uint64_t key, uint64_t n) : key_(key), n_(n) {
    FOMOE_CHECK(n > 0, "nothing to shuffle");
    half_bits_ = std::max(1, (static_cast<int>(std::bit_width(n - 1)) + 1) / 2);
}

// A Feistel network over the smallest even number of bits that holds n.
uint64_t Permutation::shuffle(uint64_t i) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = i >> half_bits_, right = i & mask;
    for (int round = 0; round < kRounds; ++round) {
        const uint64_t mixed = random_bits(combine_bits(key_, round), right) & mask;
        const uint64_t next = left ^ mixed;
        left = right;
        right = next;
    }
    return left << half_bits_ | right;
}

uint64_t Permutation::operator()(uint64_t i) const {
    FOMOE_CHECK(i < n_, i, " of ", n_);
    // A value at or above n goes round again; the cycle must come back below n.
    do i = shuffle(i);
    while (i >= n_);
    return i;
}

Proportions::Proportions(std::vector<uint64_t> weights)
    : weights_(std::move(weights)), rest_(weights_.size()) {
    uint64_t sum = 0;
    for (size_t k = weights_.size(); k-- > 0;) rest_[k] = sum += weights_[k];
    FOMOE_CHECK(sum > 0, "no weight is above 0");
}

std::vector<int64_t> Proportions::counts(int64_t u) const {
    // Source k takes floor(left * weight / rest + 1/2) of the numbers that those before it left.
    std::vector<int64_t> counts(weights_.size());
    int64_t left = u;
    for (size_t k = 0; k < weights_.size() && rest_[k] > 0; ++k) {
        const Wide twice = Wide{2} * static_cast<uint64_t>(left) * weights_[k] + rest_[k];
        counts[k] = static_cast<int64_t>(twice / (Wide{2} * rest_[k]));
        left -= counts[k];
    }
    return counts;
}

int Proportions::source(int64_t u) const {
    const std::vector<int64_t> before = counts(u), after = counts(u + 1);
    for (size_t k = 0; k < before.size(); ++k)
        if (after[k] != before[k]) return static_cast<int>(k);
    throw Error(Exit::internal, concat("number ", u, " has no source"));
}

double Proportions::share(size_t k) const {
    return static_cast<double>(weights_[k]) / static_cast<double>(rest_[0]);
}

Sampler::Sampler(const Config& config, const std::vector<int64_t>& n_tokens)
    : seed_(config.seed), batch_(config.train.batch), totals_(n_tokens.size()) {
    FOMOE_CHECK(n_tokens.size() == config.data.sources.size(), n_tokens.size(), " token counts");
    size_t k = 0;
    for (const auto& [name, prefix] : config.data.sources) {
        const int64_t n_chunks = (n_tokens[k] - 1) / config.data.seq_len;
        if (n_chunks < 1)
            throw Error(Exit::data, concat(prefix, ".train.bin: ", n_tokens[k],
                                           " tokens are less than one sequence of data.seq_len ",
                                           config.data.seq_len, " and its next token"));
        names_.push_back(name);
        n_chunks_.push_back(n_chunks);
        ++k;
    }
    for (const GroupConfig& group : config.topology.groups) {
        std::vector<uint64_t> weights(n_tokens.begin(), n_tokens.end());
        double sum = 0;
        for (const auto& [name, weight] : group.data) sum += weight;
        for (size_t i = 0; i < names_.size() && !group.data.empty(); ++i) {
            const auto found = group.data.find(names_[i]);
            weights[i] =
                found == group.data.end()
                    ? 0
                    : std::max<uint64_t>(1, std::llround(found->second / sum * kWeightUnit));
        }
        groups_.emplace_back(std::move(weights));
    }
    equal_mixtures_ = std::ranges::all_of(
        groups_, [&](const Proportions& group) { return group == groups_.front(); });
}

// All sequences of the federation are numbered: step, then group, then index in the group.
void Sampler::add_group(int group, int64_t step, std::vector<int64_t>& totals) const {
    const int64_t first = (step * static_cast<int64_t>(groups_.size()) + group) * batch_;
    const std::vector<int64_t> before = groups_[group].counts(first);
    const std::vector<int64_t> after = groups_[group].counts(first + batch_);
    for (size_t k = 0; k < totals.size(); ++k) totals[k] += after[k] - before[k];
}

void Sampler::seek(int64_t step) {
    const int n_groups = static_cast<int>(groups_.size());
    if (equal_mixtures_) {
        totals_ = groups_.front().counts(step * n_groups * batch_);
        return;
    }
    if (step < totals_step_) {
        totals_step_ = 0;
        std::ranges::fill(totals_, 0);
    }
    for (; totals_step_ < step; ++totals_step_)
        for (int g = 0; g < n_groups; ++g) add_group(g, totals_step_, totals_);
}

std::vector<double> Sampler::epochs(int64_t steps) const {
    std::vector<double> epochs(n_chunks_.size(), 0);
    const double sequences = static_cast<double>(steps) * batch_;
    for (size_t k = 0; k < epochs.size(); ++k)
        for (const Proportions& group : groups_)
            epochs[k] += group.share(k) * sequences / static_cast<double>(n_chunks_[k]);
    return epochs;
}

std::vector<Sampler::Draw> Sampler::draw(int group, int64_t step, int64_t begin, int64_t end) {
    FOMOE_CHECK(0 <= group && group < static_cast<int>(groups_.size()), "group ", group);
    FOMOE_CHECK(step >= 0 && 0 <= begin && begin <= end && end <= batch_, "sequences ", begin,
                " to ", end, " of step ", step);
    seek(step);
    std::vector<int64_t> at = totals_;
    for (int g = 0; g < group; ++g) add_group(g, step, at);

    const Proportions& mixture = groups_[group];
    const int64_t first = (step * static_cast<int64_t>(groups_.size()) + group) * batch_;
    const std::vector<int64_t> start = mixture.counts(first), here = mixture.counts(first + begin);
    for (size_t k = 0; k < at.size(); ++k) at[k] += here[k] - start[k];

    std::vector<Draw> draws;
    for (int64_t i = begin; i < end; ++i) {
        const int k = mixture.source(first + i);
        const int64_t position = at[k]++;
        const int64_t epoch = position / n_chunks_[k];
        const uint64_t key = combine_bits(random_key(seed_, names_[k]), epoch);
        const Permutation order(key, n_chunks_[k]);
        draws.push_back({k, epoch, static_cast<int64_t>(order(position % n_chunks_[k]))});
    }
    return draws;
}

}  // namespace fomoe
