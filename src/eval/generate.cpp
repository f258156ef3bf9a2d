#include "eval/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.h"

namespace fomoe {

int sample_token(std::span<const float> logits, const GenerateOptions& options, double draw) {
    std::vector<int> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int a, int b) { return logits[a] > logits[b]; });
    if (options.temperature <= 0) return order[0];

    std::vector<double> weight(order.size());
    double total = 0;
    for (size_t i = 0; i < order.size(); ++i)
        total += weight[i] = std::exp((logits[order[i]] - logits[order[0]]) / options.temperature);
    double mass = 0;
    size_t kept = 0;
    while (kept < order.size() && mass < options.top_p * total) mass += weight[kept++];
    double left = draw * mass;
    for (size_t i = 0; i < kept; ++i)
        if ((left -= weight[i]) <= 0) return order[i];
    return order[0];
}

void generate(UnionModel& model, const Tokenizer& tokenizer, const std::string& prompt,
              const GenerateOptions& options,
              const std::function<void(const std::string&)>& write) {
    FOMOE_CHECK(model.sequences() == 1, "generation works on one sequence");
    std::vector<int32_t> text = tokenizer.encode(prompt);
    if (text.empty()) throw Error(Exit::usage, "--generate: the prompt is empty");

    const size_t T = model.config().data.seq_len;
    std::vector<int32_t> token(T), target(T, -1), position(T), begin;
    std::iota(position.begin(), position.end(), 0);
    if (model.config().data.document_mask) begin.assign(T, 0);
    std::vector<float> logits(model.config().model.vocab_size);
    const uint64_t key = random_key(options.seed, "generate");

    for (int n = 0; n < options.max_tokens; ++n) {
        const size_t used = std::min(T, text.size());
        std::copy(text.end() - used, text.end(), token.begin());
        std::fill(token.begin() + used, token.end(), 0);
        model.transformer().logits(
            {.token = token, .target = target, .position = position, .begin = begin},
            {int64_t(used) - 1, int64_t(used)}, logits);
        // Padding ids stand for nothing.
        const std::span<const float> named =
            std::span(logits).first(std::min<size_t>(logits.size(), tokenizer.size()));
        int32_t next = sample_token(named, options, random_uniform(key, n));
        model.ranks().broadcast(view(&next, Shape(1)), 0);
        if (next == tokenizer.end_of_document()) break;
        text.push_back(next);
        if (model.ranks().rank() == 0) write(tokenizer.decode(std::span(&text.back(), 1)));
    }
}

}  // namespace fomoe
