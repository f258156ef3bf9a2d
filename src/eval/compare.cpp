#include "eval/compare.h"

#include <fmt/format.h>

namespace fomoe {

SegmentLosses segment_losses(UnionModel& model, const ValidLoader& data,
                             const Tokenizer& tokenizer) {
    const Config& config = model.config();
    const Scorer scorer(config.model, config.data.seq_len, tokenizer);
    Communicator& ranks = model.ranks();
    SegmentLosses all(data.n_sources());
    for (int source = 0; source < data.n_sources(); ++source)
        for (Range part : runs_of_part(data.n_sequences(source), ranks.size(), ranks.rank(),
                                       model.sequences())) {
            const Batch batch = padded_batch(data, source, part, model.sequences(), config);
            const Pass pass = forward_pass(model.transformer(), batch);
            for (Range segment : data.segments(source, part))
                all[source].push_back(scorer.loss(pass, batch, segment, 0));
        }
    return all;
}

Comparison compare(const SegmentLosses& first, const SegmentLosses& second, const ValidLoader& data,
                   Communicator& ranks) {
    Comparison result;
    for (int source = 0; source < data.n_sources(); ++source) {
        Score scores[3];
        FOMOE_CHECK(first[source].size() == second[source].size(), "segments of two texts");
        for (size_t s = 0; s < first[source].size(); ++s) {
            const SegmentLoss &a = first[source][s], &b = second[source][s];
            scores[0].add_segment(a.loss, a.tokens, a.bytes);
            scores[1].add_segment(b.loss, b.tokens, b.bytes);
            scores[2].add_segment(a.loss - b.loss, a.tokens, a.bytes);
        }
        for (Score& score : scores)
            for (auto sum : Score::sums()) ranks.all_reduce_sum(view(&(score.*sum), Shape(1)));
        const std::string& name = data.name(source);
        result.first.put(name, scores[0]);
        result.second.put(name, scores[1]);
        result.difference.put(name, scores[2]);
    }
    return result;
}

void check_comparable(const Config& first, const Config& second) {
    const auto refuse = [](const std::string& key, const auto& a, const auto& b) {
        throw Error(Exit::usage,
                    fmt::format("--compare: {} is {} there and {} here; the two do not "
                                "read the same text",
                                key, b, a));
    };
    const Tokenizer& tokenizer = known_tokenizer(first.model.tokenizer);
    const Tokenizer& other = known_tokenizer(second.model.tokenizer);
    if (tokenizer.hash() != other.hash())
        refuse("model.tokenizer", tokenizer.description(), other.description());
    if (vocab_size(first.model) > vocab_size(second.model))
        refuse("model.vocab_size", vocab_size(first.model), vocab_size(second.model));
    if (first.data.document_mask != second.data.document_mask)
        refuse("data.document_mask", first.data.document_mask, second.data.document_mask);
}

}  // namespace fomoe
