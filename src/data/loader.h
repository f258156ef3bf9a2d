// Token files -> batches in host memory.
#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/sampler.h"
#include "data/token_file.h"
#include "topology/placement.h"

namespace fomoe {

// B sequences of T tokens, one after the other: N = B * T.
struct Batch {
    int64_t n_sequences = 0;
    std::vector<int32_t> tokens;   // (N)
    std::vector<int32_t> targets;  // (N) the next token; -1: none (document_mask, end of document)
    std::vector<int32_t> positions;  // (N) 0 .. T-1 in each sequence
    std::vector<int32_t> begin;      // (N) first position of the token's document in its sequence;
                                     // empty without document_mask
    std::vector<int32_t> sources;    // (B) index in config.data.sources
    int64_t valid_tokens = 0;        // targets that are not -1
    int64_t group_valid_tokens = 0;  // the same over all sequences of the group's step
    double wait_seconds = 0;         // of the step for this batch
};

// Training batches of one rank: sequences [begin, end) of each of its group's steps. The batch of
// the next step is read by a helper thread meanwhile.
class Loader {
public:
    Loader(const Config& config, int group, Range sequences);
    ~Loader();

    Batch get(int64_t step);
    // Of the training file of each source, in the order of config.data.sources.
    std::vector<int64_t> source_tokens() const;
    // How often all groups together read each source in so many steps.
    std::vector<double> epochs(int64_t steps) const { return sampler_->epochs(steps); }
    // Looks for ids outside of the vocabulary in the first `most` tokens of each file; one rank is
    // enough. What lies behind is checked when it is read.
    void check_tokens(int64_t most) const;

private:
    const Config config_;
    int group_, vocab_size_;
    Range sequences_;
    std::vector<TokenFile> files_;
    std::unique_ptr<Sampler> sampler_;
    int64_t ahead_step_ = -1;
    std::future<Batch> ahead_;

    Batch read(int64_t step);
};

// Held-out sequences: data.valid_sequences chunks of each source, spread evenly over its text, in
// order.
class ValidLoader {
public:
    explicit ValidLoader(const Config& config);

    int n_sources() const { return static_cast<int>(files_.size()); }
    const std::string& name(int source) const { return names_[source]; }
    // At most data.valid_sequences.
    int64_t n_sequences(int source) const;
    Batch get(int source, Range sequences) const;
    // The runs of one document inside one sequence that these sequences consist of, in order, as
    // ranges of the tokens of get().
    std::vector<Range> segments(int source, Range sequences) const;
    void check_tokens(int64_t most) const;

private:
    const Config config_;
    int vocab_size_;
    std::vector<std::string> names_;
    std::vector<TokenFile> files_;

    int64_t first_token(int source, int64_t sequence) const;
};

}  // namespace fomoe
