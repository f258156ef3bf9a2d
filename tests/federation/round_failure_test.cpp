// Every way in which a round can fail: contributions left out, nothing committed, copies that
// differ, a silent group.
#include <atomic>
#include <catch2/catch.hpp>
#include <limits>

#include "federation/faulty_link.h"
#include "federation/round.h"
#include "federation/tiny_federation.h"

using namespace fomoe;

TEST_CASE("a group with a value that is not finite is left out, and takes the result") {
    const TinyConfig config = tiny_config({{2, 1}, {1, 1}, {2, 2}}, 3);
    const std::vector<bool> contributed{true, true, false};
    run_ranks(5, [&](Communicator& job) {
        TinyReference reference(config);
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        for (int64_t round = 1; round <= 3; ++round) {
            rank.train(round);
            reference.train(round);
            const bool bad = round == 2;
            // One rank of the group sees it: the other holds other experts.
            if (bad && rank.world.group == 2 && rank.world.local_rank == 0)
                rank.find("model.layers.1.mlp.experts.4.up_proj.weight")[3] =
                    std::numeric_limits<float>::infinity();
            const RoundResult result = federation.round(rank.weights());
            reference.round(bad ? contributed : std::vector<bool>(3, true));
            reference.check(rank);
            FOMOE_CHECK(result.committed && result.contributed == (bad ? 2 : 3));
            FOMOE_CHECK(result.counted == result.predicted);
            // Chunks that the absent contributor would have sent: 2/3 of the values.
            const int64_t all = expected_bytes(config, ParamClass::shared);
            const int64_t sent = result.counted.sent_of(Traffic::shared);
            FOMOE_CHECK(bad ? sent < all && sent > all / 2 : sent == all);
        }
    });
}

TEST_CASE("an outlier is left out of all spans, and takes the result") {
    const bool rejects = GENERATE(true, false);
    TinyConfig config = tiny_config({{2, 1}, {1, 1}, {2, 2}}, 3);
    config.federation.reject_above = rejects ? 5 : 0;
    run_ranks(5, [&](Communicator& job) {
        TinyReference reference(config);
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        for (int64_t round = 1; round <= 4; ++round) {
            rank.train(round);
            reference.train(round);
            // One matrix of the group is off; one rank alone, that steps no shared span, holds it.
            const bool off = round == 2 || round == 3;
            const std::string name = "model.layers.1.mlp.experts.11.up_proj.weight";
            if (off && rank.world.group == 2 && rank.world.local_rank == 1)
                for (int64_t i = 0; i < rank.layout.find(name).count(); ++i)
                    rank.find(name)[i] += 20;
            if (off) reference.add(2, name, 20);
            const RoundResult result = federation.round(rank.weights());
            reference.round({true, true, !(off && rejects)});
            reference.check(rank, rejects ? 2e-6 : 2e-5);
            FOMOE_CHECK(result.committed && result.contributed == (off && rejects ? 2 : 3));
            FOMOE_CHECK(result.counted == result.predicted);
        }
    });
}

TEST_CASE("only the classes that take part are judged") {
    TinyConfig config = tiny_config({{1, 1}, {2, 2}, {1, 1}}, 3);
    config.federation.reject_above = 5;
    const Classes shared{true, false, false};
    run_ranks(4, [&](Communicator& job) {
        TinyReference reference(config);
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        rank.train(1);
        reference.train(1);
        const std::string router = "model.layers.0.mlp.gate.weight";
        if (rank.world.group == 0) rank.find(router)[0] += 1000;
        FOMOE_CHECK(federation.round(rank.weights(), {.due = shared}).contributed == 3);
        if (rank.world.group == 0) rank.find(router)[0] = NAN;
        FOMOE_CHECK(federation.round(rank.weights(), {.due = shared}).contributed == 3);
        FOMOE_CHECK(federation.round(rank.weights()).contributed == 2);
        reference.round({true, true, true}, shared);
        reference.round({true, true, true}, shared);
        reference.round({false, true, true});
        reference.check(rank);
    });
}

TEST_CASE("a span whose only owner is left out is not stepped") {
    const TinyConfig config = tiny_config({{1, 1}, {1, 1}}, 1);
    run_ranks(2, [&](Communicator& job) {
        TinyReference reference(config);
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        rank.train(1);
        reference.train(1);
        if (rank.world.group == 1) rank.find("lm_head.weight")[0] = NAN;
        FOMOE_CHECK(federation.round(rank.weights()).contributed == 1);
        reference.round({true, false});
        reference.check(rank);
    });
}

TEST_CASE("a failed round changes nothing, to the bit") {
    // Nobody has finite values, or the step itself overflows.
    const bool overflow = GENERATE(false, true);
    TinyConfig config = tiny_config({{2, 2}, {1, 1}}, 2);
    run_ranks(3, [&](Communicator& job) {
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        rank.train(1);
        federation.round(rank.weights());
        const std::vector<float> anchor = contents(federation.anchor_lanes());
        const std::vector<float> momentum = contents(federation.momentum());

        std::vector<float> good = rank.arena;
        rank.find("model.norm.weight")[2] = overflow ? -3.4e38f : NAN;
        const std::vector<float> before = rank.arena;
        const RoundResult result = federation.round(rank.weights());
        FOMOE_CHECK(!result.committed && result.checksum == 0 && result.stepped.empty());
        FOMOE_CHECK(result.contributed == (overflow ? 2 : 0));
        FOMOE_CHECK(result.failure.kind ==
                    (overflow ? FailureKind::not_finite : FailureKind::no_contribution));
        FOMOE_CHECK(result.counted == result.predicted);
        FOMOE_CHECK(same_bits(rank.arena, before));
        FOMOE_CHECK(same_bits(contents(federation.anchor_lanes()), anchor));
        FOMOE_CHECK(same_bits(contents(federation.momentum()), momentum));
        FOMOE_CHECK(federation.rounds() == 1);

        // The next round starts from the same anchor: it is the one that would have been.
        rank.arena = good;
        rank.train(2);
        TinyReference reference(config);
        for (int64_t round = 1; round <= 2; ++round) {
            reference.train(round);
            reference.round({true, true});
        }
        FOMOE_CHECK(federation.round(rank.weights()).round == 2);
        reference.check(rank);
    });
}

TEST_CASE("copies that differ between groups stop the run with the parameter's name") {
    const TinyConfig config = tiny_config({{1, 1}, {2, 1}}, 2);
    const std::string first = config.parameters()[0].name;
    try {
        run_ranks(3, [&](Communicator& job) {
            TinyRank rank(config, job);
            FaultyLink link(rank.world, rank.link);
            Federation federation = rank.federation(link);
            federation.start(rank.weights());
            // The memory that the second round stages in: group 1 carries the first span with rank
            // 1. It goes bad when all is staged, while the ranks say so: as the first of its group
            // it has three exchanges for each time that all agree.
            const std::vector<StatePiece> lanes = federation.anchor_lanes();
            for (int64_t round = 1; round <= 2; ++round) {
                rank.train(round);
                if (round == 2 && rank.world.rank == 1)
                    link.before_control(4, [&] { lanes[0].values.as<float>()[0] += 1; });
                federation.round(rank.weights());
            }
        });
        FAIL("not found");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::communication);
        CHECK_THAT(error.what(), Catch::Contains(first) && Catch::Contains("'g0', 'g1'"));
    }
}

TEST_CASE("copies that differ inside a group stop the run with the parameter's name") {
    const TinyConfig config = tiny_config({{2, 1}, {1, 1}}, 1);
    const std::string name = "model.layers.2.mlp.experts.3.down_proj.weight";
    std::atomic<int> stopped = 0;
    CHECK_THROWS_WITH(run_ranks(3,
                                [&](Communicator& job) {
                                    TinyRank rank(config, job);
                                    Federation federation = rank.federation(rank.link);
                                    federation.start(rank.weights());
                                    if (rank.world.rank == 1) rank.find(name)[7] += 1;
                                    try {
                                        federation.round(rank.weights());
                                    } catch (const Error& error) {
                                        ++stopped;
                                        FOMOE_CHECK(error.exit == Exit::communication);
                                        throw;
                                    }
                                }),
                      Catch::Contains(name) && Catch::Contains("'g0'"));
    CHECK(stopped == 3);
}

TEST_CASE("a group that stays silent is an error after the timeout") {
    TinyConfig config = tiny_config({{1, 1}, {1, 1}}, 2);
    config.federation.exchange_timeout = 0.1;
    try {
        run_ranks(2, [&](Communicator& job) {
            TinyRank rank(config, job);
            Federation federation = rank.federation(rank.link);
            federation.start(rank.weights());
            if (rank.world.group == 0) federation.round(rank.weights());
            job.barrier();
        });
        FAIL("it ended");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::communication);
        CHECK_THAT(error.what(),
                   Catch::Contains("rank 1") && Catch::Contains("federation.exchange_timeout"));
    }
}
