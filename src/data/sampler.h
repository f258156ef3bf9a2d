// Which piece of which source each sequence of each step is: a pure function of (seed, group, step,
// index). A source is cut into chunks of seq_len tokens; a pass over them is an epoch, in a
// shuffled order of its own. The groups cut the stream of a source among them and never read a
// chunk twice in an epoch; with equal mixtures the federation reads what one group of the whole
// batch would.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

namespace fomoe {

// A shuffle of 0 .. n - 1 without a table.
class Permutation {
public:
    Permutation(uint64_t key, uint64_t n);
    uint64_t operator()(uint64_t i) const;

private:
    uint64_t key_, n_;
    int half_bits_;
    uint64_t shuffle(uint64_t i) const;
};

// Deals the numbers 0, 1, 2, ... to sources in proportion to whole weights; exact, without history.
class Proportions {
public:
    explicit Proportions(std::vector<uint64_t> weights);
    // How many of the numbers below u each source gets.
    std::vector<int64_t> counts(int64_t u) const;
    int source(int64_t u) const;
    double share(size_t k) const;  // of the numbers that source k gets in the long run
    bool operator==(const Proportions&) const = default;

private:
    std::vector<uint64_t> weights_, rest_;  // rest_[k]: sum of the weights from k on
};

class Sampler {
public:
    // Tokens of the training stream of each source, in the order of config.data.sources.
    Sampler(const Config& config, const std::vector<int64_t>& n_tokens);

    struct Draw {
        int source;
        int64_t epoch, chunk;  // tokens [chunk * seq_len, (chunk + 1) * seq_len], last one a target
        bool operator==(const Draw&) const = default;
    };
    // Sequences [begin, end) of the group's step. Not const: it keeps running totals, so that the
    // next step is cheap.
    std::vector<Draw> draw(int group, int64_t step, int64_t begin, int64_t end);
    // How often the federation reads each source in steps 0 to `steps`.
    std::vector<double> epochs(int64_t steps) const;

private:
    uint64_t seed_;
    int batch_;
    std::vector<std::string> names_;
    std::vector<int64_t> n_chunks_;
    std::vector<Proportions> groups_;
    bool equal_mixtures_;
    int64_t totals_step_ = 0;
    std::vector<int64_t> totals_;  // drawn from each source before totals_step_

    void seek(int64_t step);
    void add_group(int group, int64_t step, std::vector<int64_t>& totals) const;
};

}  // namespace fomoe
