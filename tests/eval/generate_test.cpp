// How a token is drawn from logits, and that what is kept of earlier tokens changes nothing.
#include "eval/generate.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <vector>

#include "eval/decoder.h"
#include "support/tiny_checkpoint.h"

using namespace fomoe;

namespace {

const std::vector<float> kLogits{0.0f, 2.0f, 1.0f, 2.0f, -5.0f};

// Shares of each token over evenly spread draws.
std::vector<double> shares(const GenerateOptions& options) {
    constexpr int kDraws = 20000;
    std::vector<double> share(kLogits.size());
    for (int i = 0; i < kDraws; ++i)
        share[sample_token(kLogits, options, (i + 0.5) / kDraws)] += 1.0 / kDraws;
    return share;
}

// Every kind of attention, of router and of expert.
Config variant(int number) {
    Config config = number == 0   ? tiny_sigmoid_config()
                    : number == 1 ? tiny_softmax_config()
                                  : tiny_config();
    if (number == 2) config.model.qk_norm = QkNorm::full;
    config.model.vocab_size = 320;
    config.model.init_std = 0.3;
    config.data.seq_len = 96;
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    return config;
}

// Longer than what is read of a prompt at once, a token, and something between.
std::vector<std::vector<int32_t>> some_prompts() {
    std::vector<std::vector<int32_t>> prompts;
    for (int n : {70, 1, 9})
        for (prompts.emplace_back(); std::ssize(prompts.back()) < n;)
            prompts.back().push_back(
                static_cast<int32_t>(random_bits(n, prompts.back().size()) % 250));
    return prompts;
}

// The logits behind a text, with all of it computed anew.
std::vector<float> fresh_logits(UnionModel& model, const std::vector<int32_t>& text) {
    const int64_t T = model.config().data.seq_len, n = std::ssize(text);
    std::vector<int32_t> token = text, target(T, -1), position(T), begin;
    token.resize(T, 0);
    std::iota(position.begin(), position.end(), 0);
    if (model.config().data.document_mask) begin.assign(T, 0);
    std::vector<float> logits(model.config().model.vocab_size);
    const auto transformer = model.transformer_for(1, static_cast<int>(T));
    transformer->logits(
        {.token = token, .target = target, .position = position, .begin = begin, .sequence = {}},
        {n - 1, n}, logits);
    return logits;
}

// Whether each token is the likeliest behind those before it, when all is computed anew.
bool like_fresh(UnionModel& model, const Generation& made, const Tokenizer& tokenizer) {
    std::vector<int32_t> text = made.prompt, expected = made.tokens;
    if (made.end == GenerationEnd::end_of_document) expected.push_back(tokenizer.end_of_document());
    for (int32_t token : expected) {
        const std::vector<float> logits = fresh_logits(model, text);
        const auto named = std::span(logits).first(tokenizer.size());
        if (sample_token(named, {.temperature = 0}, 0) != token) return false;
        text.push_back(token);
    }
    return true;
}

// Collective; the first rank tells.
void check_generation(UnionModel& model) {
    const auto check = [&](bool good) {
        if (model.ranks().rank() == 0) CHECK(good);
    };
    const auto tokenizer = make_tokenizer("bytes");
    const auto prompts = some_prompts();
    std::vector<std::string> texts(prompts.size());
    GenerateOptions options{.max_tokens = 10, .temperature = 0, .batch = 2};
    const Generations all =
        generate(model, *tokenizer, prompts, options,
                 [&](size_t prompt, const std::string& text, bool) { texts[prompt] += text; });
    check(all.all.size() == prompts.size());
    int64_t tokens = 0;
    for (size_t p = 0; p < prompts.size(); ++p) {
        const Generation& made = all.all[p];
        check(made.prompt == prompts[p]);
        check(like_fresh(model, made, *tokenizer));
        check(made.text == tokenizer->decode(made.tokens));
        check(model.ranks().rank() != 0 || texts[p] == made.text);
        tokens += std::ssize(made.tokens) + (made.end == GenerationEnd::end_of_document);
    }
    check(all.new_tokens == tokens);
    // Drawn tokens are those of a prompt alone, too.
    options.temperature = 1;
    const auto drawn = generate(model, *tokenizer, prompts, options, [](auto...) {});
    const auto alone = generate(model, *tokenizer, {prompts[0]}, options, [](auto...) {});
    check(alone.all[0].tokens == drawn.all[0].tokens);
    check(alone.all[0].tokens != all.all[0].tokens);
}

}  // namespace

TEST_CASE("temperature 0 takes the likeliest token, of equal ones the first") {
    for (double draw : {0.01, 0.5, 0.99})
        CHECK(sample_token(kLogits, {.temperature = 0}, draw) == 1);
}

TEST_CASE("tokens are drawn by softmax(logits / temperature)") {
    for (double temperature : {0.5, 1.0, 3.0}) {
        const std::vector<double> share = shares({.temperature = temperature, .top_p = 1.0});
        double sum = 0;
        for (float logit : kLogits) sum += std::exp(logit / temperature);
        for (size_t i = 0; i < kLogits.size(); ++i)
            CHECK(share[i] == Approx(std::exp(kLogits[i] / temperature) / sum).margin(1e-3));
    }
}

TEST_CASE("top_p keeps the smallest set of likeliest tokens with that mass") {
    // The two tokens with logit 2 have 0.796 of the mass at temperature 1.
    std::vector<double> share = shares({.temperature = 1, .top_p = 0.7});
    CHECK(share[1] == Approx(0.5).margin(1e-3));
    CHECK(share[3] == Approx(0.5).margin(1e-3));
    CHECK(share[0] + share[2] + share[4] == 0);
    share = shares({.temperature = 1, .top_p = 0.85});
    CHECK(share[2] > 0.1);
    CHECK(share[0] + share[4] == 0);
    CHECK(shares({.temperature = 1, .top_p = 1e-6})[1] == Approx(1));
}

TEST_CASE("top_k keeps that many tokens, and top_p takes its mass of them") {
    std::vector<double> share = shares({.temperature = 1, .top_k = 3, .top_p = 1});
    CHECK(share[0] + share[4] == 0);
    CHECK(share[2] == Approx(std::exp(1.0) / (std::exp(1.0) + 2 * std::exp(2.0))).margin(1e-3));
    share = shares({.temperature = 1, .top_k = 2, .top_p = 0.6});
    CHECK(share[1] + share[3] == Approx(1));
    CHECK(share[3] > 0.4);
    CHECK(shares({.temperature = 1, .top_k = 1, .top_p = 1})[1] == Approx(1));
}

TEST_CASE("generation with a cache is that without, token for token, in a batch and alone") {
    const int number = GENERATE(0, 1, 2);
    CAPTURE(number);
    const Config config = variant(number);
    const TemporaryDirectory directory;
    const auto path = save_start(config, directory / "checkpoints");
    for (int n_ranks : {1, 2})
        run_ranks(n_ranks, [&](Communicator& ranks) {
            const std::unique_ptr<Backend> backend = make_cpu_backend(1);
            UnionModel model(Checkpoint(path), config, 1, *backend, ranks);
            check_generation(model);
            model.use_own(1);
            check_generation(model);
        });
}

TEST_CASE("a cache gives the logits of all of the text, also when it is used again") {
    const Config config = variant(0);
    const TemporaryDirectory directory;
    const Checkpoint checkpoint(save_start(config, directory / "checkpoints"));
    const auto backend = make_cpu_backend(2);
    const auto alone = make_self_communicator();
    UnionModel model(checkpoint, config, 1, *backend, *alone);
    const size_t V = config.model.vocab_size;
    Decoder decoder(model, 3, 80);
    const auto check = [&](const std::vector<std::vector<int32_t>>& texts, size_t cut) {
        std::vector<std::vector<int32_t>> begin = texts, rest(texts.size());
        for (size_t s = 0; s < texts.size(); ++s) {
            const size_t at = std::min(cut, texts[s].size());
            begin[s].resize(at);
            rest[s].assign(texts[s].begin() + at, texts[s].end());
        }
        std::vector<float> logits(texts.size() * V);
        decoder.clear();
        decoder.feed(begin, logits);
        decoder.feed(rest, logits);
        for (size_t s = 0; s < texts.size(); ++s) {
            const std::vector<float> fresh = fresh_logits(model, texts[s]);
            double error = 0, most = 0;
            for (size_t i = 0; i < V; ++i) {
                error = std::max<double>(error, std::abs(fresh[i] - logits[s * V + i]));
                most = std::max<double>(most, std::abs(fresh[i]));
            }
            CHECK(error < 1e-5 * most);
        }
    };
    const auto texts = some_prompts();
    for (size_t cut : {0, 1, 5, 69, 70}) check(texts, cut);
    check({texts[2], texts[0], texts[1]}, 3);
}
