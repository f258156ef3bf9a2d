#include "eval/decoder.h"

#include <algorithm>

namespace fomoe {
namespace {

constexpr int kPromptTokens = 64;  // that are read at once

}  // namespace

Decoder::Decoder(UnionModel& model, int sequences, int64_t length)
    : vocab_size_(model.config().model.vocab_size),
      cache_(model.make_cache(sequences, length)),
      lengths_(sequences, 0),
      few_(model.transformer_for(sequences, cache_)),
      many_(model.transformer_for(kPromptTokens, cache_)) {}

void Decoder::clear() { std::ranges::fill(lengths_, 0); }

void Decoder::feed(const std::vector<std::vector<int32_t>>& tokens, std::span<float> logits) {
    FOMOE_CHECK(tokens.size() == lengths_.size(), "tokens of ", tokens.size(), " sequences");
    std::vector<Row> rows;
    for (size_t s = 0; s < tokens.size(); ++s) {
        for (int32_t token : tokens[s])
            rows.push_back({token, static_cast<int32_t>(s), lengths_[s]++, false});
        if (!tokens[s].empty()) rows.back().last = true;
        FOMOE_CHECK(lengths_[s] <= cache_.length(), "the cache is full");
    }
    for (std::span<const Row> left = rows; !left.empty();) {
        const bool few = left.size() <= lengths_.size();
        const auto run =
            left.first(std::min<size_t>(left.size(), few ? left.size() : kPromptTokens));
        pass(few ? *few_ : *many_, run, logits);
        left = left.subspan(run.size());
    }
}

void Decoder::pass(Transformer& transformer, std::span<const Row> rows, std::span<float> logits) {
    const size_t N = static_cast<size_t>(transformer.tokens());
    std::vector<int32_t> token(N, 0), target(N, -1), position(N, 0), sequence(N, -1);
    for (size_t n = 0; n < rows.size(); ++n) {
        token[n] = rows[n].token;
        position[n] = rows[n].position;
        sequence[n] = rows[n].sequence;
    }
    transformer.route({.token = token,
                       .target = target,
                       .position = position,
                       .begin = {},
                       .sequence = sequence});
    for (int64_t n = 0; n < std::ssize(rows);) {
        int64_t end = n;
        while (end < std::ssize(rows) && rows[end].last &&
               rows[end].sequence == rows[n].sequence + (end - n))
            ++end;
        if (end > n)  // neighbours in one go
            transformer.last_logits(
                {n, end}, logits.subspan(rows[n].sequence * vocab_size_, (end - n) * vocab_size_));
        n = std::max(end, n + 1);
    }
}

}  // namespace fomoe
