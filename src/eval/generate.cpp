#include "eval/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.h"
#include "base/timer.h"
#include "eval/decoder.h"
#include "eval/text_stream.h"

namespace fomoe {

int sample_token(std::span<const float> logits, const GenerateOptions& options, double draw) {
    if (options.temperature <= 0)
        return static_cast<int>(std::ranges::max_element(logits) - logits.begin());

    std::vector<int> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const auto likelier = [&](int a, int b) {
        return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    };
    const size_t most = options.top_k > 0 ? options.top_k : order.size();
    const auto end = order.begin() + std::min(order.size(), most);
    std::partial_sort(order.begin(), end, order.end(), likelier);
    order.erase(end, order.end());

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

const char* name_of(GenerationEnd end) {
    switch (end) {
        case GenerationEnd::length:
            return "length";
        case GenerationEnd::stop:
            return "stop";
        case GenerationEnd::end_of_document:
            return "end_of_document";
    }
    return "";
}

namespace {

// A prompt that is being continued.
struct Continued {
    size_t prompt;
    uint64_t key;
    TextStream stream;
    bool over = false;
};

using Write = std::function<void(size_t prompt, const std::string& text, bool last)>;

class Generator {
public:
    Generator(UnionModel& model, const Tokenizer& tokenizer, const GenerateOptions& options,
              const Write& write, Generations& result)
        : model_(model), tokenizer_(tokenizer), options_(options), write_(write), result_(result) {}

    // Continues the prompts of this range together.
    void run(Decoder& decoder, Range prompts) {
        const int64_t V = model_.config().model.vocab_size;
        std::vector<std::vector<int32_t>> feed;
        std::vector<Continued> running;
        for (int64_t p = prompts.begin; p < prompts.end; ++p) {
            feed.push_back(result_.all[p].prompt);
            result_.prompt_tokens += std::ssize(feed.back());
            running.push_back({.prompt = static_cast<size_t>(p),
                               .key = combine_bits(random_key(options_.seed, "generate"), p),
                               .stream = TextStream(options_.stops)});
        }
        feed.resize(decoder.sequences());
        std::vector<float> logits(decoder.sequences() * V);
        decoder.clear();
        Timer timer;
        decoder.feed(feed, logits);
        result_.prompt_seconds += timer.lap();
        for (int n = 0;; ++n) {
            std::vector<int32_t> next = draw(running, logits, n);
            bool all_over = true;
            for (size_t s = 0; s < running.size(); ++s) {
                feed[s].clear();
                if (running[s].over) continue;
                take(running[s], next[s]);
                if (!running[s].over) feed[s] = {next[s]};
                all_over = all_over && running[s].over;
            }
            if (all_over) break;
            decoder.feed(feed, logits);
        }
        result_.seconds += timer.lap();
    }

private:
    std::vector<int32_t> draw(const std::vector<Continued>& running,
                              const std::vector<float>& logits, int n) {
        const size_t V = model_.config().model.vocab_size;
        // Padding ids stand for nothing.
        const size_t named = std::min<size_t>(V, tokenizer_.size());
        std::vector<int32_t> next(running.size());
        for (size_t s = 0; s < running.size(); ++s)
            if (!running[s].over)
                next[s] = sample_token(std::span(logits).subspan(s * V, named), options_,
                                       random_uniform(running[s].key, n));
        model_.ranks().broadcast(view(next.data(), Shape(next.size())), 0);
        return next;
    }

    void take(Continued& own, int32_t token) {
        Generation& made = result_.all[own.prompt];
        ++result_.new_tokens;
        std::string text;
        if (token == tokenizer_.end_of_document()) {
            made.end = GenerationEnd::end_of_document;
            own.over = true;
        } else {
            made.tokens.push_back(token);
            text = own.stream.add(tokenizer_.decode(std::span(&token, 1)));
            own.over = own.stream.stopped() || std::ssize(made.tokens) >= options_.max_tokens;
            if (own.stream.stopped()) made.end = GenerationEnd::stop;
        }
        if (own.over) text += own.stream.rest();
        made.text += text;
        if (model_.ranks().rank() == 0 && (own.over || !text.empty()))
            write_(own.prompt, text, own.over);
    }

    UnionModel& model_;
    const Tokenizer& tokenizer_;
    const GenerateOptions& options_;
    const Write& write_;
    Generations& result_;
};

}  // namespace

Generations generate(UnionModel& model, const Tokenizer& tokenizer,
                     const std::vector<std::vector<int32_t>>& prompts,
                     const GenerateOptions& options, const Write& write) {
    Generations result;
    size_t longest = 0;
    for (const std::vector<int32_t>& prompt : prompts) {
        if (prompt.empty()) throw Error(Exit::usage, "a prompt has no tokens; give some text");
        longest = std::max(longest, prompt.size());
        result.all.push_back({.prompt = prompt, .tokens = {}, .text = {}});
    }
    const int64_t n = std::ssize(prompts), at_once = std::min<int64_t>(n, options.batch);
    Decoder decoder(model, static_cast<int>(at_once), longest + options.max_tokens);
    result.cache_bytes = decoder.cache_bytes();
    Generator generator(model, tokenizer, options, write, result);
    for (int64_t first = 0; first < n; first += at_once)
        generator.run(decoder, {first, std::min(first + at_once, n)});
    return result;
}

}  // namespace fomoe
