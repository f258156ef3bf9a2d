// Sequences that grow token by token: each token passes through the model once, and its keys and
// values are kept for those behind it.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "eval/union_model.h"

namespace fomoe {

class Decoder {
public:
    // Of the experts that the model has in use. Collective, as everything here. The model outlives
    // it.
    Decoder(UnionModel& model, int sequences, int64_t length);

    // Puts tokens behind each sequence. logits (sequences, V), host: those of its last new token;
    // of a sequence without a new one they stay as they are.
    void feed(const std::vector<std::vector<int32_t>>& tokens, std::span<float> logits);
    void clear();  // of all tokens

    int sequences() const { return static_cast<int>(lengths_.size()); }
    int64_t cache_bytes() const { return cache_.bytes(); }

private:
    struct Row {
        int32_t token, sequence, position;
        bool last;
    };
    void pass(Transformer& transformer, std::span<const Row> rows, std::span<float> logits);

    int64_t vocab_size_;
    KvCache cache_;
    std::vector<int32_t> lengths_;  // by sequence
    std::unique_ptr<Transformer> few_,
        many_;  // a token of each sequence at once, and a run of a prompt
};

}  // namespace fomoe
