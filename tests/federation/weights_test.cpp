// Averages whose contributions do not count alike: weights by tokens, rows of the router by owner.
#include "federation/weights.h"

#include <catch2/catch.hpp>
#include <functional>
#include <limits>
#include <numeric>

#include "federation/tiny_federation.h"

using namespace fomoe;

namespace {

TinyConfig weighed(TinyConfig config, WeightsKind weights, RouterAverage average) {
    config.federation.weights = weights;
    config.federation.router_average = average;
    return config;
}

const std::pair<WeightsKind, RouterAverage> kPolicies[] = {
    {WeightsKind::uniform, RouterAverage::owners},
    {WeightsKind::tokens, RouterAverage::all},
    {WeightsKind::tokens, RouterAverage::owners},
};

std::vector<TinyConfig> topologies() {
    std::vector<TinyConfig> made{tiny_config({{1, 1}, {1, 1}}, 1),
                                 tiny_config({{2, 2}, {1, 1}, {4, 2}}, 3),
                                 tiny_config({{1, 1}, {2, 2}, {1, 1}, {3, 1}}, 2),
                                 tiny_config({{1, 1}, {2, 1}, {2, 2}}, 3, OuterKind::average)};
    TinyConfig rotated = tiny_config({{2, 1}, {2, 2}, {1, 1}, {1, 1}}, 2);
    rotated.federation.placement = PlacementKind::rotate;
    made.push_back(rotated);
    TinyConfig lists = tiny_config({{2, 2}, {4, 2}, {1, 1}}, 1);
    lists.federation.placement = PlacementKind::explicit_lists;
    lists.model.moe.n_experts = 6;
    lists.topology.experts = {{"g0", {0, 1, 2, 5}}, {"g1", {1, 2, 3}}, {"g2", {2, 3, 4}}};
    made.push_back(lists);
    return made;
}

int64_t table(const TinyConfig& config) {
    return int64_t{config.model.n_layers} * config.model.moe.n_experts;
}

// Four rounds; one group is left out of the third.
void check_rounds(const TinyConfig& config, Communicator& job) {
    TinyReference reference(config);
    TinyRank rank(config, job);
    Federation federation = rank.federation(rank.link);
    federation.start(rank.weights());
    const int n_groups = rank.world.n_groups();
    for (int64_t round = 1; round <= 4; ++round) {
        rank.train(round, federation);
        reference.train(round);
        std::vector<bool> contributed(n_groups, true);
        if (round == 3 && n_groups > 1) {
            contributed[1] = false;
            if (rank.world.group == 1)
                rank.find("lm_head.weight")[0] = std::numeric_limits<float>::quiet_NaN();
        }
        const RoundResult result = federation.round(rank.weights());
        reference.round(contributed);
        reference.check(rank);
        FOMOE_CHECK(result.committed && result.counted == result.predicted, "counted ",
                    result.counted.total_sent(), ", predicted ", result.predicted.total_sent());
        FOMOE_CHECK(result.checksum != 0);
    }
}

// Steps with periods of the classes; the router is exchanged more often than the experts.
void check_periods(TinyConfig config, Communicator& job) {
    FederationConfig& of = config.federation;
    of.local_steps = 4;
    of.shared_steps = 8;
    of.router_steps = 2;
    of.outer.momentum = 0.6;
    of.shared = of.router = of.expert = of.outer;
    TinyReference reference(config);
    TinyRank rank(config, job);
    Federation federation = rank.federation(rank.link);
    federation.start(rank.weights());
    for (int64_t step = 1; step <= 13; ++step) {
        rank.train(step, federation);
        reference.train(step);
        const Classes due = step == 13 ? kAllClasses : classes_due(of, step);
        if (due == Classes{}) continue;
        const RoundResult result = federation.round(rank.weights(), {.due = due});
        reference.round(std::vector<bool>(rank.world.n_groups(), true), due);
        reference.check(rank, 2e-5);
        FOMOE_CHECK(result.committed && result.counted == result.predicted);
    }
}

// The weights after some rounds, by rank; `count` may count something else than local_counts.
std::vector<std::vector<float>> trained(
    const TinyConfig& config,
    const std::function<void(Federation&, int64_t round, int group)>& count) {
    std::vector<std::vector<float>> weights(config.topology.n_ranks());
    run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        for (int64_t round = 1; round <= 2; ++round) {
            rank.train(round);
            count(federation, round, rank.world.group);
            FOMOE_CHECK(federation.round(rank.weights()).committed);
        }
        weights[job.rank()] = rank.arena;
    });
    return weights;
}

std::vector<std::vector<float>> trained(const TinyConfig& config) {
    return trained(config, [&](Federation& federation, int64_t round, int group) {
        const LocalCounts counts = local_counts(config, round, group);
        federation.count(counts.tokens, counts.choices);
    });
}

}  // namespace

TEST_CASE("rounds with weights of any kind equal the reference") {
    for (const TinyConfig& topology : topologies())
        for (auto [weights, average] : kPolicies) {
            const TinyConfig config = weighed(topology, weights, average);
            run_ranks(config.topology.n_ranks(),
                      [&](Communicator& job) { check_rounds(config, job); });
        }
}

TEST_CASE("counts run on over rounds that do not exchange the class") {
    for (const TinyConfig& topology : topologies()) {
        const TinyConfig config = weighed(topology, WeightsKind::tokens, RouterAverage::owners);
        run_ranks(config.topology.n_ranks(),
                  [&](Communicator& job) { check_periods(config, job); });
    }
}

TEST_CASE("equal counts, or none at all, weigh as uniform weights") {
    for (RouterAverage average : {RouterAverage::all, RouterAverage::owners})
        for (const TinyConfig& topology : topologies()) {
            const TinyConfig uniform = weighed(topology, WeightsKind::uniform, average);
            const TinyConfig tokens = weighed(topology, WeightsKind::tokens, average);
            const auto expected = trained(uniform);
            for (float amount : {0.0f, 7.0f}) {
                const auto found = trained(tokens, [&](Federation& federation, int64_t, int) {
                    federation.count(static_cast<int64_t>(amount),
                                     std::vector<float>(table(tokens), amount));
                });
                for (size_t rank = 0; rank < found.size(); ++rank)
                    CHECK(same_bits(found[rank], expected[rank]));
            }
            CHECK_FALSE(same_bits(trained(tokens)[0], expected[0]));
        }
}

TEST_CASE("with every expert in every group, the owners of a row are all groups") {
    const TinyConfig topology = tiny_config({{2, 2}, {1, 1}, {2, 1}}, 3);
    const auto all = trained(weighed(topology, WeightsKind::uniform, RouterAverage::all));
    const auto owners = trained(weighed(topology, WeightsKind::uniform, RouterAverage::owners));
    for (size_t rank = 0; rank < all.size(); ++rank) CHECK(same_bits(all[rank], owners[rank]));
}

TEST_CASE("only what is asked for travels, and only in the rounds that need it") {
    const TinyConfig topology = tiny_config({{1, 1}, {2, 2}, {1, 1}}, 3);
    const int64_t n = table(topology);
    struct Row {
        WeightsKind weights;
        RouterAverage average;
        AuxScope scope;
        Classes due;
        int64_t words;
    };
    const Classes shared{true, false, false}, router{false, true, false};
    const AuxScope group = AuxScope::group, federation = AuxScope::federation;
    for (const Row& row : {
             Row{WeightsKind::uniform, RouterAverage::all, group, kAllClasses, 0},
             Row{WeightsKind::uniform, RouterAverage::owners, group, kAllClasses, 0},
             Row{WeightsKind::tokens, RouterAverage::all, group, kAllClasses, 2 + n},
             Row{WeightsKind::tokens, RouterAverage::owners, group, kAllClasses, 2 + 2 * n},
             Row{WeightsKind::tokens, RouterAverage::owners, federation, kAllClasses, 2 + 2 * n},
             Row{WeightsKind::uniform, RouterAverage::all, federation, kAllClasses, n},
             Row{WeightsKind::uniform, RouterAverage::all, federation, shared, 0},
             Row{WeightsKind::tokens, RouterAverage::all, federation, shared, 1},
             Row{WeightsKind::tokens, RouterAverage::all, federation, router, 1 + n},
         }) {
        TinyConfig config = weighed(topology, row.weights, row.average);
        config.model.moe.aux_scope = row.scope;
        int64_t sent[2] = {};
        run_ranks(4, [&](Communicator& job) {
            for (const bool counted : {false, true}) {
                TinyRank rank(counted ? config : topology, job);
                Federation rounds = rank.federation(rank.link);
                rounds.start(rank.weights());
                rank.train(1, rounds);
                const RoundResult result = rounds.round(rank.weights(), {.due = row.due});
                FOMOE_CHECK(result.counted == result.predicted);
                if (job.rank() == 0) sent[counted] = result.counted.sent_of(Traffic::control);
            }
        });
        // From each of three leaders to two others.
        CHECK(sent[1] - sent[0] == 8 * row.words * 3 * 2);
    }
}

TEST_CASE("the choices of all groups between two exchanges of the router add up") {
    for (const TinyConfig& topology : topologies()) {
        TinyConfig config = topology;
        config.model.moe.aux_scope = AuxScope::federation;
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
            TinyRank rank(config, job);
            Federation federation = rank.federation(rank.link);
            federation.start(rank.weights());
            const auto sum = [&](int64_t first, int64_t last) {
                std::vector<int64_t> all(table(config));
                for (int64_t round = first; round <= last; ++round)
                    for (int group = 0; group < rank.world.n_groups(); ++group) {
                        const LocalCounts counts = local_counts(config, round, group);
                        for (size_t i = 0; i < all.size(); ++i)
                            all[i] += static_cast<int64_t>(counts.choices[i]);
                    }
                return all;
            };
            FOMOE_CHECK(federation.exchanged_choices() == std::vector<int64_t>(table(config)));
            rank.train(1, federation);
            federation.round(rank.weights());
            FOMOE_CHECK(federation.exchanged_choices() == sum(1, 1));
            rank.train(2, federation);
            federation.round(rank.weights(), {.due = {true, false, true}});
            FOMOE_CHECK(federation.exchanged_choices() == sum(1, 1));
            rank.train(3, federation);
            federation.round(rank.weights());
            FOMOE_CHECK(federation.exchanged_choices() == sum(2, 3));
        });
    }
}

TEST_CASE("a failed round counts on") {
    TinyConfig config =
        weighed(tiny_config({{2, 2}, {1, 1}}, 2), WeightsKind::tokens, RouterAverage::owners);
    config.model.moe.aux_scope = AuxScope::federation;
    run_ranks(3, [&](Communicator& job) {
        TinyReference reference(config);
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        for (int64_t round : {1, 2}) {
            rank.train(round, federation);
            reference.train(round);
            const auto of = federation.counts().values();
            const std::vector<int64_t> before(of.begin(), of.end());
            const float kept = *rank.find("lm_head.weight");
            if (round == 1) *rank.find("lm_head.weight") = NAN;
            const RoundResult result = federation.round(rank.weights());
            FOMOE_CHECK(result.committed == (round == 2) && result.counted == result.predicted);
            FOMOE_CHECK(std::ranges::equal(federation.counts().values(), before) == (round == 1));
            if (round == 1) {
                *rank.find("lm_head.weight") = kept;
                FOMOE_CHECK(federation.exchanged_choices() == std::vector<int64_t>(table(config)));
            }
        }
        reference.round({true, true});
        reference.check(rank);
    });
}

TEST_CASE("an expert whose owners were left out counts on") {
    const TinyConfig config = weighed(tiny_config({{1, 1}, {1, 1}, {1, 1}, {1, 1}}, 2),
                                      WeightsKind::tokens, RouterAverage::all);
    run_ranks(4, [&](Communicator& job) {
        TinyReference reference(config);
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        for (int64_t round = 1; round <= 3; ++round) {
            rank.train(round, federation);
            reference.train(round);
            // Groups 0 and 2 hold the same experts.
            const bool left = round < 3;
            if (left && rank.world.group % 2 == 0) *rank.find("lm_head.weight") = NAN;
            federation.round(rank.weights());
            reference.round({!left, true, !left, true});
            reference.check(rank);
        }
    });
}

TEST_CASE("runs of weights tile any range") {
    for (const TinyConfig& topology : topologies())
        for (auto [weights, average] : kPolicies) {
            const TinyConfig config = weighed(topology, weights, average);
            const World world(config.topology, 0, config.topology.n_ranks());
            const Placement placement = config.placement();
            const std::vector<Parameter> all = config.parameters();
            const auto spans =
                owned_spans(all, arena_layout(all, placement, world), placement, world);
            std::vector<TrainedCounts> counts;
            for (int group = 0; group < world.n_groups(); ++group) {
                const LocalCounts local = local_counts(config, 1, group);
                counts.emplace_back(table(config)).add(local.tokens, local.choices);
            }
            const ContributionWeights shares(CountUse(config.federation, config.model.moe),
                                             placement, counts);
            const std::vector<bool> everyone(world.n_groups(), true);
            for (const OwnedSpan& span : spans)
                for (const Range range :
                     {Range{0, span.size}, Range{1, span.size - 1}, Range{3, 4}, Range{2, 2}}) {
                    int64_t at = range.begin;
                    for (const WeightRun& run : shares.runs(span, range, everyone)) {
                        REQUIRE(run.range.begin == at);
                        REQUIRE(run.range.end > at);
                        REQUIRE(run.weights.size() == span.owners.size());
                        const float sum =
                            std::accumulate(run.weights.begin(), run.weights.end(), 0.0f);
                        REQUIRE(sum == Approx(1));
                        at = run.range.end;
                    }
                    REQUIRE(at == range.end);
                }
        }
}
