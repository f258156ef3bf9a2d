// The probe's sequences, what is chosen on them, and that training does not notice.
#include "train/probe.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <mutex>
#include <numeric>

#include "data/token_file.h"
#include "support/temporary_directory.h"
#include "support/tiny.h"
#include "train/step.h"

using namespace fomoe;

namespace {

// Token files of random ids below the vocabulary of tiny_config, in documents of 5.
void write_tokens(const TemporaryDirectory& place, const std::string& name, int documents) {
    for (const char* part : {".train", ".valid"}) {
        TokenFileWriter writer(place / (name + part), TokenType::u16);
        for (int d = 0; d < documents; ++d) {
            std::vector<int32_t> tokens(5);
            for (size_t i = 0; i < tokens.size(); ++i)
                tokens[i] = static_cast<int32_t>(random_bits(random_key(d, name), i) % 48);
            writer.add_document(tokens);
        }
        writer.commit();
    }
}

// Two groups; source "a" holds out 10 sequences of 12 tokens, "b" 2.
Config two_sources(const TemporaryDirectory& place, const Config& base) {
    write_tokens(place, "a", 25);
    write_tokens(place, "b", 6);
    Config config = base;
    config.data.sources = {{"a", place / "a"}, {"b", place / "b"}};
    config.data.valid_sequences = 10;
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    config.train.micro_batch = 4;
    config.federation.probe_sequences = 3;
    return config;
}

// A group's step on one rank of it.
struct Rank {
    Rank(const Config& config, Communicator& job, Backend& backend)
        : world(config.topology, job.rank(), config.topology.n_ranks()),
          placement(placement_of(config)),
          layout(arena_layout(all_parameters(config.model, placement), placement, world)),
          ranks(job, world),
          step(config, world, placement, layout, backend, ranks) {}

    std::vector<float> weights() {
        const float* w = step.weights().values().as<float>();
        return {w, w + layout.size()};
    }

    World world;
    Placement placement;
    ArenaLayout layout;
    GroupCommunicators ranks;
    InnerStep step;
};

// In nats, of the router's probabilities over these experts.
double mean_entropy(const Config& config, const std::vector<float>& logits,
                    const std::vector<int>& experts, int tokens) {
    const size_t E = config.model.moe.n_experts;
    double mean = 0;
    for (int t = 0; t < tokens; ++t) {
        std::vector<double> score;
        for (int e : experts) {
            const double power = std::exp(double{logits[t * E + e]});
            score.push_back(config.model.moe.router == RouterKind::softmax ? power
                                                                           : power / (1 + power));
        }
        const double sum = std::accumulate(score.begin(), score.end(), 0.0);
        for (double s : score) mean -= s / sum * std::log(s / sum) / tokens;
    }
    return mean;
}

}  // namespace

TEST_CASE("a probe takes the sources in turn and chooses what an evaluation chooses") {
    for (const Config& base : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        const TemporaryDirectory place;
        Config config = two_sources(place, base);
        config.train.micro_batch = 8;
        const ValidLoader data(config);
        REQUIRE(data.n_sequences(0) == 10);
        REQUIRE(data.n_sequences(1) == 2);
        const std::vector<std::pair<int, int64_t>> order{{0, 0}, {1, 0}, {0, 1}, {1, 1},
                                                         {0, 2}, {0, 3}, {0, 4}};
        run_ranks(2, [&](Communicator& job) {
            Config own = config;
            const auto backend = make_cpu_backend(1);
            Rank rank(own, job, *backend);
            Transformer& model = rank.step.transformer();
            const int T = config.data.seq_len, K = config.model.moe.top_k;
            for (int n : {1, 3, 7}) {
                own.federation.probe_sequences = n;
                const Probe probe(own, data);
                const ProbeChoices found = probe.choices(model);
                const std::vector<double> entropy = probe.router_entropy(model),
                                          of_own = probe.router_entropy(model, &rank.placement,
                                                                        rank.world.group);
                FOMOE_CHECK(found.top_k == K);
                FOMOE_CHECK(model.totals().load ==
                            std::vector<float>(rank.step.load().size(), 0.0f));
                // The same sequences first in a micro-batch, followed by others.
                Batch batch;
                for (int i = 0; i < 8; ++i) {
                    const auto [source, at] = order[i % 7];
                    const Batch one = data.get(source, {at, at + 1});
                    for (auto part :
                         {&Batch::tokens, &Batch::targets, &Batch::positions, &Batch::begin})
                        (batch.*part)
                            .insert((batch.*part).end(), (one.*part).begin(), (one.*part).end());
                }
                std::vector<float> losses(8 * T);
                model.evaluate(token_batch(batch), losses);
                const int first = config.model.moe.first_dense_layers;
                std::vector<uint16_t> expected;
                std::vector<int> all(config.model.moe.n_experts);
                std::iota(all.begin(), all.end(), 0);
                for (int layer = first; layer < config.model.n_layers; ++layer) {
                    const std::vector<float> logits = model.router_logits(layer);
                    const auto held = rank.placement.residents(layer, rank.world.group);
                    const auto near = [](double a, double b) { return std::abs(a - b) < 1e-6; };
                    FOMOE_CHECK(
                        near(entropy.at(layer - first), mean_entropy(own, logits, all, n * T)));
                    FOMOE_CHECK(
                        near(of_own.at(layer - first), mean_entropy(own, logits, held, n * T)));
                    FOMOE_CHECK(entropy[layer - first] < std::log(all.size()));
                    const std::vector<int32_t> chosen = model.chosen_experts(layer);
                    expected.insert(expected.end(), chosen.begin(), chosen.begin() + n * T * K);
                }
                FOMOE_CHECK(found.experts == expected, n, " sequences");
            }
        });
    }
}

TEST_CASE("training does not notice the probe, to the bit") {
    const TemporaryDirectory place;
    for (const Config& base : {tiny_sigmoid_config(), tiny_softmax_config()})
        for (AuxScope scope : {AuxScope::sequence, AuxScope::group}) {
            Config config = two_sources(place, base);
            config.model.moe.aux_scope = scope;
            config.topology = tiny_topology({{2, 2}, {1, 1}});
            const Probe probe(config, ValidLoader(config));
            std::mutex mutex;
            int differences = 0, compared = 0;
            run_ranks(3, [&](Communicator& job) {
                const auto backend = make_cpu_backend(1);
                std::vector<float> weights[2], load[2];
                std::vector<double> losses[2];
                for (int probed : {0, 1}) {
                    Rank rank(config, job, *backend);
                    for (int64_t s = 1; s <= 3; ++s) {
                        const Range own = InnerStep::sequences(config, rank.world);
                        losses[probed].push_back(
                            rank.step.run(s, tiny_batch(config, s, own), false).loss);
                        const auto before = rank.step.load();
                        if (probed) probe.choices(rank.step.transformer());
                        FOMOE_CHECK(rank.step.load() == before);
                    }
                    weights[probed] = rank.weights();
                    load[probed] = rank.step.load();
                }
                std::lock_guard lock(mutex);
                ++compared;
                differences +=
                    weights[0] != weights[1] || load[0] != load[1] || losses[0] != losses[1];
            });
            CHECK(compared == 3);
            CHECK(differences == 0);
        }
}

TEST_CASE("a probe that the files cannot fill is refused by its key") {
    const TemporaryDirectory place;
    Config config = two_sources(place, tiny_config());
    config.train.micro_batch = 16;
    const ValidLoader data(config);
    config.federation.probe_sequences = 12;
    Probe(config, data);
    config.federation.probe_sequences = 13;
    try {
        Probe(config, data);
        FAIL("it was made");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::data);
        CHECK_THAT(error.what(), Catch::Matchers::Contains(
                                     "federation.probe_sequences: 13 sequences, but the sources "
                                     "hold out only 12"));
    }
    CHECK(Probe::wanted(config));
    config.federation.probe_sequences = 0;
    CHECK(!Probe::wanted(config));
    config.federation.probe_sequences = 1;
    config.topology = tiny_topology({{2, 1}});
    CHECK(!Probe::wanted(config));
}
