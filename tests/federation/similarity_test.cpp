// What a round says of how alike its groups are, against direct computations.
#include "federation/similarity.h"

#include <catch2/catch.hpp>
#include <limits>
#include <set>

#include "federation/tiny_federation.h"
#include "support/random_federation.h"

using namespace fomoe;

namespace {

void check_close(const ByClass& found, const ByClass& expected) {
    for (size_t cls = 0; cls < found.size(); ++cls) {
        FOMOE_CHECK(found[cls].has_value() == expected[cls].has_value(), "class ", cls);
        if (found[cls])
            FOMOE_CHECK(std::fabs(*found[cls] - *expected[cls]) < 1e-4, "class ", cls, ": ",
                        *found[cls], ", expected ", *expected[cls]);
    }
}

// Choices of a group on a probe: 7 rows of different experts.
ProbeChoices some_choices(int n_experts, int top_k, uint64_t key) {
    ProbeChoices choices{.experts = {}, .top_k = top_k};
    for (uint64_t row = 0; row < 7; ++row) {
        std::vector<uint16_t> ids(n_experts);
        std::iota(ids.begin(), ids.end(), 0);
        for (int k = 0; k < top_k; ++k) {
            std::swap(ids[k], ids[k + random_bits(combine_bits(key, row), k) % (n_experts - k)]);
            choices.experts.push_back(ids[k]);
        }
    }
    return choices;
}

double direct_agreement(const std::vector<ProbeChoices>& groups) {
    double sum = 0;
    int n = 0;
    for (size_t g = 0; g < groups.size(); ++g)
        for (size_t h = 0; h < g; ++h)
            for (int row = 0; row < 7; ++row) {
                const int K = groups[g].top_k;
                const auto set_of = [&](const ProbeChoices& from) {
                    const auto first = from.experts.begin() + row * K;
                    return std::set<int>(first, first + K);
                };
                int common = 0;
                for (int e : set_of(groups[g])) common += set_of(groups[h]).contains(e);
                sum += double(common) / K;
                ++n;
            }
    return sum / n;
}

// Rounds of all classes, of one class, and without the first group, whose values are not finite.
void check_measures(const TinyConfig& config, uint64_t trial, Communicator& job) {
    TinyReference reference(config);
    TinyRank rank(config, job);
    Federation federation = rank.federation(rank.link);
    federation.start(rank.weights());
    const int n = rank.world.n_groups(), top_k = config.model.moe.top_k;
    std::vector<bool> contributed(n, true);
    for (int64_t round = 1; round <= 4; ++round) {
        Classes due = kAllClasses;
        if (round == 2) due = {false, true, false};
        rank.train(round);
        reference.train(round);
        if (round == 4 && n > 1) {
            contributed[0] = false;
            if (rank.world.group == 0)
                *rank.find("model.norm.weight") = std::numeric_limits<float>::infinity();
        }
        std::vector<ProbeChoices> choices;
        for (int g = 0; g < n; ++g)
            choices.push_back(some_choices(config.model.moe.n_experts, top_k,
                                           combine_bits(trial, 10 * round + g)));
        const ByClass expected = reference.cosines(contributed, due);
        RoundInput input{.due = due};
        if (round != 3) input.probe = choices[rank.world.group];
        const RoundResult result = federation.round(rank.weights(), input);
        reference.round(contributed, due);
        reference.check(rank);
        check_close(result.cosine, expected);
        FOMOE_CHECK(result.agreement.has_value() == (n > 1 && round != 3));
        if (result.agreement)
            FOMOE_CHECK(std::fabs(*result.agreement - direct_agreement(choices)) < 1e-12);
        FOMOE_CHECK(result.counted == result.predicted, "counted ", result.counted.total_sent(),
                    ", predicted ", result.predicted.total_sent());
        if (n > 1 && due[0]) FOMOE_CHECK(result.cosine[0].has_value() == (round < 4 || n > 2));
    }
}

}  // namespace

TEST_CASE("cosines and agreement of random federations are those of a direct computation") {
    for (PlacementKind kind : kAllPlacements)
        for (uint64_t trial = 0; trial < 6; ++trial) {
            const RandomFederation random = random_federation(trial, kind, 4);
            CAPTURE(static_cast<int>(kind), trial);
            TinyConfig config = tiny_config({}, random.federation.replication);
            config.topology = random.topology;
            config.federation.placement = kind;
            config.model.moe.n_experts = random.n_experts;
            config.model.moe.top_k = std::min(2, random.n_experts);
            run_ranks(config.topology.n_ranks(),
                      [&](Communicator& job) { check_measures(config, trial, job); });
        }
}

TEST_CASE("a single owner's expert has no cosine, an averaged one has") {
    for (int replication : {1, 2, 4}) {
        const TinyConfig config =
            tiny_config({{1, 1}, {1, 1}, {1, 1}, {1, 1}}, replication, OuterKind::nesterov);
        run_ranks(4, [&](Communicator& job) {
            TinyRank rank(config, job);
            Federation federation = rank.federation(rank.link);
            federation.start(rank.weights());
            // Nobody has moved.
            const RoundResult still = federation.round(rank.weights());
            FOMOE_CHECK(still.committed && still.cosine == ByClass{});
            FOMOE_CHECK(!still.agreement);
            rank.train(1);
            const RoundResult moved = federation.round(rank.weights());
            FOMOE_CHECK(moved.cosine[2].has_value() == (replication > 1));
            // The groups move independently of each other.
            FOMOE_CHECK(std::fabs(*moved.cosine[0]) < 0.1);
        });
    }
}

TEST_CASE("groups that move alike have cosine 1, opposite ones -1") {
    const float anchor[] = {1, 1, 1}, a[] = {2, 3, 0}, b[] = {1.5, 2, 0.5}, c[] = {0, -1, 2};
    PairProducts alike(2), opposite(2), all(3);
    alike.add(ParamClass::router, std::vector<int>{0, 1}, anchor, std::vector<const float*>{a, b},
              3);
    CHECK(*alike.cosines()[1] == Approx(1));
    CHECK(!alike.cosines()[0]);
    CHECK(!alike.cosines()[2]);
    opposite.add(ParamClass::shared, std::vector<int>{0, 1}, anchor,
                 std::vector<const float*>{a, c}, 3);
    CHECK(*opposite.cosines()[0] == Approx(-1));
    // Pairs (0, 1): 1, (0, 2): -1 and (1, 2): -1; group 1 alone adds nothing.
    all.add(ParamClass::expert, std::vector<int>{0, 1, 2}, anchor,
            std::vector<const float*>{a, b, c}, 3);
    all.add(ParamClass::expert, std::vector<int>{1}, anchor, std::vector<const float*>{c}, 3);
    CHECK(*all.cosines()[2] == Approx(-1.0 / 3));
    // Halves that travelled as words add up.
    PairProducts sum(3);
    sum.add(all.words());
    sum.add(all.words());
    CHECK(all.words().size() == PairProducts::n_words(3));
    CHECK(*sum.cosines()[2] == Approx(-1.0 / 3));
}

TEST_CASE("expert ids travel four in a word") {
    for (size_t n : {0, 1, 3, 4, 5, 9}) {
        std::vector<uint16_t> ids(n);
        for (size_t i = 0; i < n; ++i) ids[i] = static_cast<uint16_t>(65535 - 9000 * i);
        const Words words = packed(ids);
        CHECK(words.size() == (n + 3) / 4);
        CHECK(unpacked(words, n) == ids);
    }
}

TEST_CASE("agreement knows no order of the choices") {
    CHECK(*routing_agreement({{0, 1, 2, 3}, {1, 0, 3, 2}}, 2) == 1);
    CHECK(*routing_agreement({{0, 1, 2, 3}, {2, 3, 0, 1}}, 2) == 0);
    CHECK(*routing_agreement({{0, 1, 2, 3}, {0, 2, 2, 3}}, 2) == 0.75);
    CHECK(!routing_agreement({{0, 1}}, 2));
    CHECK(!routing_agreement({{}, {}}, 2));
}
