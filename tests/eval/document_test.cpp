// Documents that go to one group's own model: the choice, what counts, what it costs.
#include "eval/document.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "eval/perplexity.h"
#include "model/flops.h"
#include "support/tiny_checkpoint.h"

using namespace fomoe;

namespace {

constexpr int kDocument = 21;  // tokens of each document of the held-out text

Evaluations evaluate_on(int n_ranks, const std::filesystem::path& path,
                        const EvaluationOptions& options) {
    Evaluations results;
    run_ranks(n_ranks, [&](Communicator& ranks) {
        const Checkpoint checkpoint(path);
        const Config config = checkpoint.config();
        const std::unique_ptr<Backend> backend = make_cpu_backend(1);
        UnionModel model(checkpoint, config, 2, *backend, ranks);
        const Evaluations mine =
            evaluate(model, ValidLoader(config), *make_tokenizer(config.model.tokenizer), options);
        if (ranks.rank() == 0) results = mine;
    });
    return results;
}

// Every group's own model as a rank that holds nothing else computes it, one sequence at a time.
class OwnModel {
public:
    OwnModel(const Checkpoint& checkpoint, const Config& config, const Placement& placement,
             const World& world)
        : config_(config),
          placement_(placement),
          world_(world),
          layout_(arena_layout(all_parameters(config_.model, placement_), placement_, world_)),
          weights_(layout_.size()),
          transformer_(config_.model, config_.federation, layout_, placement_, world_,
                       Transformer::batch_shape(config_.model, layout_, world_, 1,
                                                config_.data.seq_len, config_.data.document_mask),
                       *backend_, *alone_) {
        const Tensor arena = view(weights_.data(), Shape(layout_.size()));
        load_union(checkpoint, layout_, arena);
        transformer_.bind(arena, {});
    }

    // Loss and executed choices of the tokens of one sequence; the choices are counted by a pass
    // for each token, in which it alone has a target.
    void run(const Batch& batch) {
        const size_t T = batch.tokens.size();
        loss.assign(T, 0);
        executed.assign(T, 0);
        transformer_.evaluate(token_batch(batch), loss);
        const int E = config_.model.moe.n_experts;
        std::vector<float> unused(T);
        for (size_t t = 0; t < T; ++t) {
            Batch one = batch;
            one.targets.assign(T, -1);
            one.targets[t] = 0;
            transformer_.reset_totals();
            transformer_.evaluate(token_batch(one), unused);
            const std::vector<float> load = transformer_.totals().load;
            for (int l = config_.model.moe.first_dense_layers; l < config_.model.n_layers; ++l)
                for (int e : placement_.residents(l, world_.group)) executed[t] += load[l * E + e];
        }
    }

    std::vector<float> loss, executed;  // (T)

private:
    Config config_;
    Placement placement_;
    World world_;
    ArenaLayout layout_;
    std::vector<float> weights_;
    std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
    std::unique_ptr<Communicator> alone_ = make_self_communicator();
    Transformer transformer_;
};

// The figures of documents chosen by loss, pooled, from scratch.
struct Direct {
    double loss = 0, tokens = 0, flops = 0, computed = 0;
    std::map<std::string, std::vector<int64_t>> segments;
    std::vector<int64_t> lengths;
};

Direct directly(const std::filesystem::path& path, int prefix) {
    const Checkpoint checkpoint(path);
    const Config config = checkpoint.config();
    const int64_t T = config.data.seq_len;
    std::vector<std::unique_ptr<OwnModel>> models;
    for (int group = 0; group < 2; ++group)
        models.push_back(std::make_unique<OwnModel>(checkpoint, config, placement_of(config),
                                                    World(config.topology, group, 2)));
    const FlopsPerToken flops = forward_flops_per_token(config.model, config.data.seq_len);
    const ValidLoader data(config);
    Direct sums;
    for (int source = 0; source < data.n_sources(); ++source) {
        sums.segments[data.name(source)] = {0, 0};
        const int64_t n = data.n_sequences(source), chunks = (9 * kDocument - 1) / T;
        for (int64_t i = 0; i < n; ++i) {
            const Batch batch = data.get(source, {i, i + 1});
            for (auto& model : models) model->run(batch);
            const int64_t first = i * chunks / n * T;
            for (int64_t begin = 0, end; begin < T; begin = end) {
                end = std::min(T, ((first + begin) / kDocument + 1) * kDocument - first);
                sums.lengths.push_back(end - begin);
                if (end - begin <= prefix) continue;
                double prefix_loss[2] = {0, 0};
                for (int g = 0; g < 2; ++g)
                    for (int64_t t = begin; t < begin + prefix; ++t) {
                        prefix_loss[g] += models[g]->loss[t];
                        sums.flops += flops.of(models[g]->executed[t]);
                    }
                const int chosen = prefix_loss[1] < prefix_loss[0];
                ++sums.segments[data.name(source)][chosen];
                for (int64_t t = begin + prefix; t < end; ++t) {
                    sums.flops += flops.of(models[chosen]->executed[t]);
                    if (batch.targets[t] < 0) continue;
                    sums.loss += models[chosen]->loss[t];
                    sums.tokens += 1;
                }
                sums.computed += static_cast<double>(end - begin);
            }
        }
    }
    return sums;
}

// Larger differences between the groups than the start values have.
void spread(const Parameter& p, std::span<float> values) {
    if (p.cls == ParamClass::expert)
        for (float& value : values) value *= 4;
}

// One source for each document: 12 tokens, of which the first `same` depend on `key` alone and the
// others on `rest`, then what no sequence reads.
Config single_documents(const TemporaryDirectory& directory, int same, const std::string& key,
                        const std::string& rest) {
    Config config = held_out_federation(directory);
    config.data.sources.clear();
    config.data.valid_sequences = 1;
    for (int source = 0; source < 12; ++source) {
        const std::string name = concat("s", source + 10);
        config.data.sources[name] = directory / (rest + name);
        TokenFileWriter writer(directory / (rest + name + ".valid"), TokenType::u16);
        std::vector<int32_t> tokens;
        for (int i = 0; i < 13; ++i)
            tokens.push_back(static_cast<int32_t>(
                random_bits(random_key(2, i < same ? key : rest), source * 100 + i) % 250));
        writer.add_document(std::span(tokens).first(12));
        writer.add_document(std::span(tokens).last(1));
        writer.commit();
    }
    return config;
}

}  // namespace

TEST_CASE("the group of least loss, or of most mass, the first of equals") {
    const std::vector<float> a{1, 2}, b{2, 0.5}, c{0.5, 2};
    CHECK(choose_by_loss({a, b, c}) == 1);
    CHECK(choose_by_loss({b, c}) == 0);
    CHECK(choose_by_loss({a, c, b}) == 1);
    const double mass[] = {0.2, 0.5, 0.5};
    CHECK(choose_by_mass(mass) == 1);

    // Two experts, one for each of two groups: mass 1/4 and 3/4, and the second row does not count.
    Config config = tiny_config();
    config.model.moe.n_experts = 2;
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    const std::vector<float> logits{0, std::log(3.0f), 9, 0};
    std::vector<double> sum(2, 1);
    add_router_mass(logits, placement_of(config), 0, {0, 1}, sum);
    CHECK(sum[0] == Approx(1.25));
    CHECK(sum[1] == Approx(1.75));
}

TEST_CASE("documents by loss, against each group's model alone") {
    const int prefix = GENERATE(1, 3, 9, 11);
    const bool mask = GENERATE(true, false);
    const AbsentPolicy absent = GENERATE(AbsentPolicy::skip, AbsentPolicy::reroute);
    CAPTURE(prefix, mask);
    const TemporaryDirectory directory;
    Config config = held_out_federation(directory);
    config.data.document_mask = mask;
    config.federation.absent = absent;
    const std::filesystem::path path = save_start(config, directory / "checkpoints", spread);

    const Direct direct = directly(path, prefix);
    // Segments as long as the prefix, shorter and longer ones.
    if (prefix == 3 || prefix == 9) CHECK(std::ranges::count(direct.lengths, prefix) > 0);
    if (prefix == 9) CHECK(std::ranges::min(direct.lengths) < prefix);
    const EvaluationOptions options{.document_model = true, .prefix = prefix};
    const Evaluations one = evaluate_on(1, path, options);
    const Score& pooled = one.document_model->pooled;
    CHECK(pooled.loss_sum == Approx(direct.loss).epsilon(1e-5));
    CHECK(pooled.tokens == direct.tokens);
    CHECK(pooled.computed == direct.computed);
    CHECK(pooled.flops == direct.flops);
    CHECK(one.segments == direct.segments);
    // The same tokens count in every mode.
    for (const Evaluation* other : {&*one.union_model, &one.own_models[0], &one.own_models[1]}) {
        CHECK(other->pooled.tokens == direct.tokens);
        CHECK(other->pooled.computed == direct.computed);
        for (const auto& [name, score] : other->domains)
            CHECK(score.bytes == one.document_model->domains.at(name).bytes);
    }

    for (int ranks : {2, 3}) {
        const Evaluations more = evaluate_on(ranks, path, options);
        CHECK(more.segments == one.segments);
        CHECK(more.document_model->pooled.loss() == Approx(pooled.loss()).epsilon(1e-6));
        CHECK(more.document_model->pooled.tokens == pooled.tokens);
        CHECK(more.document_model->pooled.flops == pooled.flops);
    }
}

TEST_CASE("what lies behind the prefix does not change the choice") {
    const DocumentChoice choose = GENERATE(DocumentChoice::loss, DocumentChoice::router);
    const EvaluationOptions options{.document_model = true, .prefix = 4, .choose = choose};
    const TemporaryDirectory directory;
    // The fourth token's target is the fifth token.
    const int known = choose == DocumentChoice::loss ? 5 : 4;
    auto with = [&](const std::string& key, const std::string& rest) {
        return evaluate_on(1,
                           save_start(single_documents(directory, known, key, rest),
                                      directory / (key + rest), spread),
                           options);
    };
    const Evaluations a = with("key", "x"), b = with("key", "y"), c = with("other", "z");
    CHECK(a.segments == b.segments);
    CHECK(a.segments != c.segments);
    CHECK(a.document_model->pooled.loss() != b.document_model->pooled.loss());
    std::vector<int64_t> chosen(2, 0);
    for (const auto& [name, counts] : a.segments)
        for (int g = 0; g < 2; ++g) chosen[g] += counts[g];
    CHECK(chosen[0] > 0);
    CHECK(chosen[1] > 0);
    CHECK(chosen[0] + chosen[1] == 12);
}

TEST_CASE("documents by the router, against its mass in f64") {
    const int prefix = 5;
    const TemporaryDirectory directory;
    Config config = single_documents(directory, 12, "text", "");
    config.federation.placement = GENERATE(PlacementKind::blocks, PlacementKind::rotate);
    // Without what the branches add the residual stream is the embedding, in every layer.
    std::map<std::string, std::vector<double>> weights;
    const std::filesystem::path path = save_start(
        config, directory / "checkpoints", [&](const Parameter& p, std::span<float> values) {
            if (p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight"))
                std::ranges::fill(values, 0.0f);
            weights[p.name] = {values.begin(), values.end()};
        });
    const Evaluations results = evaluate_on(1, path,
                                            {.union_model = false,
                                             .own_models = false,
                                             .document_model = true,
                                             .prefix = prefix,
                                             .choose = DocumentChoice::router});
    CHECK_FALSE(results.union_model);
    CHECK(results.own_models.empty());

    const int64_t D = config.model.d_model, E = config.model.moe.n_experts;
    const ValidLoader data(config);
    const Placement placement = placement_of(config);
    std::vector<int64_t> chosen(2, 0);
    for (int source = 0; source < data.n_sources(); ++source) {
        const Batch batch = data.get(source, {0, 1});
        double mass[2] = {0, 0};
        for (int l = 0; l < config.model.n_layers; ++l)
            for (int t = 0; t < prefix; ++t) {
                const double* x = &weights.at("model.embed_tokens.weight")[batch.tokens[t] * D];
                const std::string at = concat("model.layers.", l);
                const auto& gain = weights.at(at + ".post_attention_layernorm.weight");
                const auto& router = weights.at(at + ".mlp.gate.weight");
                double squares = 0, total = 0;
                for (int64_t d = 0; d < D; ++d) squares += x[d] * x[d];
                const double rstd = 1 / std::sqrt(squares / D + config.model.norm_eps);
                std::vector<double> share(E);
                for (int64_t e = 0; e < E; ++e) {
                    double z = 0;
                    for (int64_t d = 0; d < D; ++d) z += router[e * D + d] * x[d] * rstd * gain[d];
                    total += share[e] = std::exp(z);
                }
                for (int g = 0; g < 2; ++g)
                    for (int e : placement.residents(l, g)) mass[g] += share[e] / total;
            }
        const int group = mass[1] > mass[0];
        ++chosen[group];
        CHECK(results.segments.at(data.name(source)).at(group) == 1);
    }
    CHECK(chosen[0] > 0);
    CHECK(chosen[1] > 0);

    // The union on the prefix, then the chosen model on everything.
    const Evaluations all = evaluate_on(
        2, path, {.document_model = true, .prefix = prefix, .choose = DocumentChoice::router});
    CHECK(all.segments == results.segments);
    const FlopsPerToken flops = forward_flops_per_token(config.model, config.data.seq_len);
    double expected = 0;
    for (const auto& [name, counts] : all.segments)
        expected += all.own_models[counts[1] == 1].domains.at(name).flops +
                    prefix * flops.of(config.model.moe.top_k * config.model.n_layers);
    CHECK(all.document_model->pooled.flops == expected);
}

TEST_CASE("a prefix that leaves nothing is refused") {
    const TemporaryDirectory directory;
    Config config = held_out_federation(directory);
    auto with = [](int prefix) {
        return EvaluationOptions{.document_model = true, .prefix = prefix};
    };
    CHECK_NOTHROW(check_prefix(config, with(11)));
    CHECK_NOTHROW(check_prefix(config, {}));
    CHECK_THROWS_WITH(check_prefix(config, with(12)), Catch::Contains("give 1 to 11"));
    CHECK_THROWS_WITH(check_prefix(config, with(0)), Catch::Contains("give 1 to 11"));
    config.data.seq_len = 1;
    CHECK_THROWS_WITH(check_prefix(config, with(1)),
                      Catch::Contains("behind it; leave document out of --mode"));
    config.data.seq_len = 40;
    CHECK_NOTHROW(check_prefix(config, with(20)));
    CHECK_THROWS_WITH(check_prefix(config, with(21)), Catch::Contains("shorter prefix"));
}
