// Moments that are averaged in rounds, against a reference in f64 on whole parameters.
#include <catch2/catch.hpp>
#include <limits>

#include "federation/faulty_link.h"
#include "federation/tiny_federation.h"

using namespace fomoe;

namespace {

// A moment as a round of local steps leaves it.
float local_moment(int64_t round, int group, const std::string& name, int moment, int64_t i) {
    const float x = random_normal(random_key(1000 * round + 10 * group + moment, name), i);
    return moment == 0 ? 0.1f * x : 0.01f * x * x;
}

Tensor moment_of(const InnerOptimizer::Slice& slice, int moment) {
    return moment == 0 ? slice.m : slice.v;
}

// Calls f(parameter, element, value) for every moment that the rank keeps.
template <class F>
void for_each_moment(const TinyRank& rank, const InnerOptimizer& optimizer, int moment, F f) {
    for (const Parameter& p : rank.layout.parameters)
        for (const InnerOptimizer::Slice& slice : optimizer.slices())
            for (int64_t i = 0; i < p.count(); ++i) {
                const int64_t at = p.offset + i - slice.begin;
                if (at >= 0 && at < slice.size) f(p, i, moment_of(slice, moment).as<float>()[at]);
            }
}

// A rank whose rounds average moments.
struct MomentRank : TinyRank {
    MomentRank(const TinyConfig& config, Communicator& job)
        : TinyRank(config, job), optimizer(OptimizerConfig(), layout, world, *backend) {}

    void train_moments(int64_t round) {
        for (int moment = 0; moment < kMoments; ++moment)
            for_each_moment(*this, optimizer, moment, [&](const Parameter& p, int64_t i, float& x) {
                x = local_moment(round, world.group, p.name, moment, i);
            });
    }
    // All moments, to the bit.
    std::vector<float> moments() const {
        std::vector<float> all;
        for (int moment = 0; moment < kMoments; ++moment)
            for_each_moment(*this, optimizer, moment,
                            [&](const Parameter&, int64_t, float x) { all.push_back(x); });
        return all;
    }

    std::unique_ptr<Backend> backend = make_cpu_backend(1);
    InnerOptimizer optimizer;
};

// What the moments are after the round's local steps and, where they take part, the average.
void check_moments(const MomentRank& rank, int64_t round, const std::vector<bool>& contributed,
                   const Participants& due) {
    for (int moment = 0; moment < kMoments; ++moment)
        for_each_moment(rank, rank.optimizer, moment, [&](const Parameter& p, int64_t i, float x) {
            int n = 0;
            for (int group : p.owners) n += contributed[group];
            const bool averaged =
                due.moments[moment] && due.has(p.cls) && p.owners.size() > 1 && n > 0;
            if (!averaged) {
                FOMOE_CHECK(x == local_moment(round, rank.world.group, p.name, moment, i), p.name,
                            " should not have changed");
                return;
            }
            double mean = 0;
            for (int group : p.owners)
                if (contributed[group])
                    mean += double{local_moment(round, group, p.name, moment, i)} / n;
            FOMOE_CHECK(std::fabs(x - mean) < 1e-7, p.name, "[", i, "] is ", x, ", expected ",
                        mean);
        });
}

std::vector<TinyConfig> topologies() {
    TinyConfig overlapping = tiny_config({{2, 2}, {4, 2}, {1, 1}}, 1);
    overlapping.federation.placement = PlacementKind::explicit_lists;
    overlapping.model.moe.n_experts = 6;
    overlapping.topology.experts = {{"g0", {0, 1, 2, 5}}, {"g1", {1, 2, 3}}, {"g2", {2, 3, 4}}};
    return {tiny_config({{1, 1}, {1, 1}}, 2), tiny_config({{2, 2}, {1, 1}, {4, 2}}, 3),
            tiny_config({{2, 1}, {3, 3}}, 1),
            tiny_config({{1, 1}, {2, 2}, {1, 1}, {3, 1}}, 2, OuterKind::average), overlapping};
}

}  // namespace

TEST_CASE("due moments are the mean of the contributors, the others stay to the bit") {
    for (const TinyConfig& config : topologies())
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
            TinyReference reference(config);
            MomentRank rank(config, job);
            Federation federation = rank.federation(rank.link);
            federation.average_moments(rank.optimizer);
            federation.start(rank.weights());
            int64_t round = 0;
            const Classes shared{true, false, false}, others{false, true, true};
            const std::pair<Moments, Classes> cases[] = {
                {kAllMoments, kAllClasses},     {kAllMoments, shared},
                {kAllMoments, others},          {Moments{true, false}, kAllClasses},
                {Moments{false, true}, others}, {kNoMoments, kAllClasses}};
            for (const auto& [moments, classes] : cases)
                for (const bool one_is_bad : {false, true}) {
                    ++round;
                    rank.train(round);
                    reference.train(round);
                    rank.train_moments(round);
                    std::vector<bool> contributed(rank.world.n_groups(), true);
                    contributed[1] = !one_is_bad;
                    // Every class has its own place where it can go wrong.
                    for (const Parameter& p : rank.layout.parameters)
                        if (one_is_bad && rank.world.group == 1)
                            rank.arena[p.offset] = std::numeric_limits<float>::quiet_NaN();
                    const RoundResult result =
                        federation.round(rank.weights(), {.due = classes, .moments = moments});
                    reference.round(contributed, classes);
                    check_moments(rank, round, contributed,
                                  {.classes = classes, .moments = moments, .groups = {}});
                    FOMOE_CHECK(result.committed && result.counted == result.predicted);
                    // The rest of the bad group is made good again.
                    for (const Parameter& p : rank.layout.parameters)
                        if (one_is_bad && rank.world.group == 1 && std::isnan(rank.arena[p.offset]))
                            rank.arena[p.offset] = reference.local(1, p.name)[0];
                    reference.check(rank, 1e-4);
                    if (one_is_bad) continue;
                    const int times = 1 + moments[0] + moments[1];
                    for (ParamClass cls :
                         {ParamClass::shared, ParamClass::router, ParamClass::expert})
                        FOMOE_CHECK(result.counted.sent_of(traffic_of(cls)) ==
                                    (classes[static_cast<int>(cls)]
                                         ? times * expected_bytes(config, cls)
                                         : 0));
                }
        });
}

TEST_CASE("a group whose moments are not finite is left out, and takes the others'") {
    const int moment = GENERATE(0, 1);
    const TinyConfig config = tiny_config({{2, 2}, {1, 1}, {4, 2}}, 3);
    const std::string name = "model.layers.1.mlp.experts.11.up_proj.weight";
    run_ranks(7, [&](Communicator& job) {
        TinyReference reference(config);
        MomentRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.average_moments(rank.optimizer);
        federation.start(rank.weights());
        for (int64_t round = 1; round <= 3; ++round) {
            rank.train(round);
            reference.train(round);
            rank.train_moments(round);
            // One rank keeps the slice in which it lies. Where it is not due, nobody looks.
            Moments due = kNoMoments;
            due[moment] = round != 2;
            for_each_moment(rank, rank.optimizer, moment,
                            [&](const Parameter& p, int64_t i, float& x) {
                                if (round > 1 && rank.world.group == 2 && p.name == name && i == 3)
                                    x = std::numeric_limits<float>::infinity();
                            });
            const RoundResult result = federation.round(rank.weights(), {.moments = due});
            const std::vector<bool> contributed{true, true, round < 3};
            reference.round(contributed);
            reference.check(rank);
            FOMOE_CHECK(result.contributed == (round < 3 ? 3 : 2));
            if (round != 2)
                check_moments(rank, round, contributed,
                              {.classes = kAllClasses, .moments = due, .groups = {}});
        }
    });
}

TEST_CASE("a failed round changes no moment, to the bit, whatever message was damaged") {
    const int part = GENERATE(0, 1, 2);  // weights, first, second moment
    for (const TinyConfig& config : topologies())
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
            TinyReference reference(config);
            MomentRank rank(config, job);
            FaultyLink link(rank.world, rank.link);
            Federation federation = rank.federation(link);
            federation.average_moments(rank.optimizer);
            federation.start(rank.weights());
            const int n_groups = rank.world.n_groups();
            for (int64_t round = 1; round <= 3; ++round) {
                rank.train(round);
                reference.train(round);
                rank.train_moments(round);
                const bool fails = round == 2;
                if (fails && rank.world.group == 1 && rank.world.local_rank == 0)
                    link.plan(Fault::flip, Traffic::shared, part * 2 * (n_groups - 1) + 1);
                const std::vector<float> before = rank.moments(), weights = rank.arena;
                const RoundResult result =
                    federation.round(rank.weights(), {.moments = kAllMoments});
                FOMOE_CHECK(result.committed == !fails && link.done());
                FOMOE_CHECK(result.counted == result.predicted);
                if (fails) {
                    FOMOE_CHECK((result.failure == Failure{FailureKind::damaged, 1}));
                    FOMOE_CHECK(same_bits(rank.moments(), before));
                    FOMOE_CHECK(same_bits(rank.arena, weights));
                    continue;
                }
                const std::vector<bool> everyone(n_groups, true);
                reference.round(everyone);
                reference.check(rank);
                check_moments(rank, round, everyone,
                              {.classes = kAllClasses, .moments = kAllMoments, .groups = {}});
            }
        });
}

TEST_CASE("memory of moments is an arena and what is staged of both") {
    const TinyConfig config = tiny_config({{1, 1}, {2, 1}}, 2);
    run_ranks(3, [&](Communicator& job) {
        MomentRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        const int64_t before = federation.bytes();
        federation.average_moments(rank.optimizer);
        // Rank 2 carries no lane.
        int64_t all = 0;
        for (const Parameter& p : rank.layout.parameters) all += p.count();
        const int64_t staged = rank.world.rank < 2 ? 2 * all : 0;
        FOMOE_CHECK(federation.bytes() - before == 4 * (rank.layout.size() + staged));
    });
}

TEST_CASE("one group averages no moments") {
    run_ranks(2, [&](Communicator& job) {
        MomentRank rank(tiny_config({{2, 2}}, 1), job);
        Federation federation = rank.federation(rank.link);
        federation.average_moments(rank.optimizer);
        federation.start(rank.weights());
        FOMOE_CHECK(federation.bytes() == 0);
        rank.train_moments(1);
        const std::vector<float> before = rank.moments();
        FOMOE_CHECK(federation.round(rank.weights(), {.moments = kAllMoments}).committed);
        FOMOE_CHECK(same_bits(rank.moments(), before));
    });
}
