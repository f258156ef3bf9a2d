// The union model and the groups' own models of a checkpoint, on one and more ranks.
#include "eval/perplexity.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "ops/trace_backend.h"
#include "support/tiny_checkpoint.h"

using namespace fomoe;

namespace {

struct Figures {
    Evaluation whole;
    std::vector<Evaluation> own;
};

Figures figures_on(int n_ranks, const std::filesystem::path& path) {
    Figures figures;
    run_ranks(n_ranks, [&](Communicator& ranks) {
        const Checkpoint checkpoint(path);
        const Config config = checkpoint.config();
        const std::unique_ptr<Backend> backend = make_cpu_backend(1);
        UnionModel model(checkpoint, config, 2, *backend, ranks);
        const ValidLoader data(config);
        const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(config.model.tokenizer);
        const Evaluations results = evaluate(model, data, *tokenizer);
        CHECK_FALSE(results.document_model);
        CHECK(results.segments.empty());
        const Evaluations alone = evaluate(model, data, *tokenizer, {.own_models = false});
        CHECK(alone.own_models.empty());
        CHECK(alone.union_model->pooled.loss() == results.union_model->pooled.loss());
        if (ranks.rank() == 0) figures = {*results.union_model, results.own_models};
    });
    return figures;
}

// The loss of a group's own model computed by a rank that holds nothing else, and the FLOPs of its
// ops.
double own_loss(const std::filesystem::path& path, int group, double& tokens, double& flops) {
    const Checkpoint checkpoint(path);
    Config config = checkpoint.config();
    const Placement placement = placement_of(config);
    const World world(config.topology, group, 2);
    const ArenaLayout layout =
        arena_layout(all_parameters(config.model, placement), placement, world);
    std::vector<float> weights(layout.size());
    const Tensor arena = view(weights.data(), Shape(layout.size()));
    load_union(checkpoint, layout, arena);

    const std::unique_ptr<Backend> cpu = make_cpu_backend(1);
    TraceBackend backend(*cpu);
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    Transformer transformer(
        config.model, config.federation, layout, placement, world,
        Transformer::batch_shape(config.model, layout, world, 1, config.data.seq_len, true),
        backend, *alone);
    transformer.bind(arena, {});
    const ValidLoader data(config);
    std::vector<float> loss(config.data.seq_len);
    double sum = 0;
    tokens = 0;
    for (int source = 0; source < data.n_sources(); ++source)
        for (int64_t i = 0; i < data.n_sequences(source); ++i) {
            const Batch batch = data.get(source, {i, i + 1});
            sum += transformer.evaluate(token_batch(batch), loss);
            tokens += static_cast<double>(batch.valid_tokens);
        }
    flops = 0;
    for (const TraceRow& row : backend.report()) flops += row.flops;
    return sum / tokens;
}

}  // namespace

TEST_CASE("union and own models are those of the groups, on any number of ranks") {
    const std::string placement = GENERATE("blocks", "rotate", "explicit");
    CAPTURE(placement);
    std::vector<Figures> by_policy;
    for (AbsentPolicy absent :
         {AbsentPolicy::skip, AbsentPolicy::renormalize, AbsentPolicy::reroute}) {
        const TemporaryDirectory directory;
        Config config = held_out_federation(directory);
        config.federation.absent = absent;
        if (placement == "rotate") config.federation.placement = PlacementKind::rotate;
        if (placement == "explicit") {
            config.federation.placement = PlacementKind::explicit_lists;
            config.topology.experts = {{"g0", {0, 3, 4}}, {"g1", {1, 2, 3, 5, 6, 7}}};
        }
        const std::filesystem::path path = save_start(config, directory / "checkpoints");

        const Figures one = figures_on(1, path);
        REQUIRE(one.whole.domains.size() == 2);
        for (int group = 0; group < 2; ++group) {
            double tokens = 0, flops = 0;
            CHECK(one.own[group].pooled.loss() ==
                  Approx(own_loss(path, group, tokens, flops)).epsilon(1e-6));
            CHECK(one.own[group].pooled.tokens == tokens);
            CHECK(one.own[group].pooled.flops == flops);
            CHECK(one.own[group].pooled.computed == 2 * 5 * config.data.seq_len);
            if (absent == AbsentPolicy::reroute)
                CHECK(one.own[group].pooled.flops == one.whole.pooled.flops);
            else
                CHECK(one.own[group].pooled.flops < one.whole.pooled.flops);
            CHECK(std::abs(one.own[group].pooled.loss() - one.whole.pooled.loss()) > 1e-7);
        }
        for (int ranks : {2, 3, 5}) {
            const Figures more = figures_on(ranks, path);
            CHECK(more.whole.pooled.loss() == Approx(one.whole.pooled.loss()).epsilon(1e-6));
            CHECK(more.whole.pooled.tokens == one.whole.pooled.tokens);
            CHECK(more.whole.pooled.flops_per_token() == one.whole.pooled.flops_per_token());
            for (int group = 0; group < 2; ++group)
                CHECK(more.own[group].pooled.loss() ==
                      Approx(one.own[group].pooled.loss()).epsilon(1e-6));
        }
        // The union executes every choice, so that the policy means nothing to it.
        for (const Figures& other : by_policy) {
            CHECK(one.whole.pooled.loss() == other.whole.pooled.loss());
            for (int group = 0; group < 2; ++group)
                CHECK(std::abs(one.own[group].pooled.loss() - other.own[group].pooled.loss()) >
                      1e-7);
        }
        by_policy.push_back(one);
    }
}

TEST_CASE("scores: bits per byte count bytes, perplexity counts tokens") {
    Score score{.loss_sum = 10 * std::log(2.0), .tokens = 5, .bytes = 4};
    CHECK(score.loss() == Approx(2 * std::log(2.0)));
    CHECK(score.perplexity() == Approx(4));
    CHECK(score.bits_per_byte() == Approx(2.5));
    score.add({.loss_sum = 0, .tokens = 5, .bytes = 6});
    CHECK(score.perplexity() == Approx(2));
    CHECK(score.bits_per_byte() == Approx(1));
    score.add({.flops = 12, .computed = 4});
    score.add({.flops = 8, .computed = 4});
    CHECK(score.flops_per_token() == Approx(2.5));
}

TEST_CASE("scores: standard errors are those of the segments") {
    // Segments of equal length: the standard error of their mean.
    const std::vector<double> losses{3, 7, 4, 9, 2};
    Score score;
    double mean = 0, squares = 0;
    for (double loss : losses) mean += loss / 5;
    for (double loss : losses) {
        score.add_segment(loss, 4, 8);
        squares += (loss - mean) * (loss - mean);
    }
    score.add_segment(0, 0, 0);
    CHECK(score.segments == 5);
    CHECK(score.loss_error() == Approx(std::sqrt(squares / 4 / 5) / 4));
    CHECK(score.bits_per_byte_error() == Approx(std::sqrt(squares / 4 / 5) / 8 / std::log(2.0)));

    // Of any length: near what leaving out each segment in turn says (the jackknife).
    Score all;
    std::vector<std::array<double, 3>> segments;
    for (int i = 0; i < 200; ++i) {
        const double tokens = 1 + random_bits(3, i) % 30, bytes = tokens * (3 + i % 3);
        segments.push_back({tokens * (1 + random_uniform(4, i)), tokens, bytes});
        all.add_segment(segments.back()[0], tokens, bytes);
    }
    double of_loss = 0, of_bits = 0;
    for (const auto& [loss, tokens, bytes] : segments) {
        const double rest = (all.loss_sum - loss) / (all.tokens - tokens);
        const double bits = (all.loss_sum - loss) / (all.bytes - bytes) / std::log(2.0);
        of_loss += (rest - all.loss()) * (rest - all.loss());
        of_bits += (bits - all.bits_per_byte()) * (bits - all.bits_per_byte());
    }
    CHECK(all.loss_error() == Approx(std::sqrt(of_loss * 199 / 200)).epsilon(0.03));
    CHECK(all.bits_per_byte_error() == Approx(std::sqrt(of_bits * 199 / 200)).epsilon(0.03));
    CHECK(std::isnan(Score{}.loss_error()));
}

TEST_CASE("the gap of a union is to the mean of the own models, in bits per byte") {
    const auto of_bits = [](double bits) {
        return Evaluation{
            .domains = {},
            .pooled = {.loss_sum = bits * std::log(2.0) * 10, .tokens = 3, .bytes = 10}};
    };
    const Evaluations results{.union_model = of_bits(4),
                              .own_models = {of_bits(3), of_bits(1), of_bits(5)},
                              .document_model = {},
                              .segments = {}};
    CHECK(results.gap_of(*results.union_model) == Approx(1));
    CHECK(results.gap_of(of_bits(2.5)) == Approx(-0.5));
}
