// The union model and the groups' own models of a checkpoint, on one and more ranks.
#include "eval/perplexity.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "checkpoint/save.h"
#include "support/temporary_directory.h"
#include "support/tiny.h"

using namespace fomoe;

namespace {

// Two groups, each with half of the experts; held-out text of two domains.
Config federation(const TemporaryDirectory& directory) {
    Config config = tiny_sigmoid_config();
    config.model.vocab_size = 320;
    config.data.valid_sequences = 5;
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    for (const std::string name : {"north", "south"}) {
        config.data.sources[name] = directory / name;
        for (const std::string part : {".train", ".valid"}) {
            TokenFileWriter writer(directory / (name + part), TokenType::u16);
            const uint64_t key = random_key(1, name + part);
            for (int document = 0; document < 9; ++document) {
                std::vector<int32_t> tokens;
                for (int i = 0; i < 20; ++i)
                    tokens.push_back(static_cast<int32_t>(random_bits(key, document * 100 + i) %
                                                          (name == "north" ? 60 : 250)));
                tokens.push_back(256);
                writer.add_document(tokens);
            }
            writer.commit();
        }
    }
    return config;
}

// A checkpoint with the union model only, as training would have left it after no step.
std::filesystem::path save_start(const Config& config, const std::string& directory) {
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    Config single = config;
    single.topology = tiny_topology({{1, 1}});
    const Placement all_here = Placement::all_resident(config.model.moe.n_experts);
    const World world(single.topology, 0, 1);
    const std::vector<Parameter> all = all_parameters(config.model, all_here);
    const ArenaLayout layout = arena_layout(all, all_here, world);
    std::vector<float> weights(layout.size());
    for (const Parameter& p : layout.parameters)
        initial_values(p, config.seed, 0, p.count(), weights.data() + p.offset);
    const Tensor arena = view(weights.data(), Shape(layout.size()));
    return save_checkpoint(*alone, directory,
                           {.about = describe_run(config, 1),
                            .config = &config,
                            .sets = {{.directory = kModelDirectory,
                                      .tensors = model_tensors(all),
                                      .pieces = union_shares(layout, all_here, world, arena)}}});
}

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
        Figures mine;
        mine.whole = evaluate(model, data, *tokenizer);
        for (int group = 0; group < 2; ++group) {
            model.use_own(group);
            mine.own.push_back(evaluate(model, data, *tokenizer));
        }
        model.use_union();
        CHECK(evaluate(model, data, *tokenizer).pooled.loss() == mine.whole.pooled.loss());
        if (ranks.rank() == 0) figures = mine;
    });
    return figures;
}

// The loss of a group's own model computed by a rank that holds nothing else.
double own_loss(const std::filesystem::path& path, int group, double& tokens) {
    const Checkpoint checkpoint(path);
    Config config = checkpoint.config();
    const Placement placement = placement_of(config);
    const World world(config.topology, group, 2);
    const ArenaLayout layout =
        arena_layout(all_parameters(config.model, placement), placement, world);
    std::vector<float> weights(layout.size());
    const Tensor arena = view(weights.data(), Shape(layout.size()));
    load_union(checkpoint, layout, arena);

    const std::unique_ptr<Backend> backend = make_cpu_backend(1);
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    Transformer transformer(
        config.model, config.federation, layout, placement, world,
        Transformer::batch_shape(config.model, layout, world, 1, config.data.seq_len, true),
        *backend, *alone);
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
        Config config = federation(directory);
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
            double tokens = 0;
            CHECK(one.own[group].pooled.loss() ==
                  Approx(own_loss(path, group, tokens)).epsilon(1e-6));
            CHECK(one.own[group].pooled.tokens == tokens);
            CHECK(std::abs(one.own[group].pooled.loss() - one.whole.pooled.loss()) > 1e-7);
        }
        for (int ranks : {2, 3, 5}) {
            const Figures more = figures_on(ranks, path);
            CHECK(more.whole.pooled.loss() == Approx(one.whole.pooled.loss()).epsilon(1e-6));
            CHECK(more.whole.pooled.tokens == one.whole.pooled.tokens);
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
}
