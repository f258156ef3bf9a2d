// Rounds that succeed: results against the reference, bytes against the prediction, state.
#include "federation/round.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "federation/tiny_federation.h"

using namespace fomoe;

namespace {

void check_rounds(const TinyConfig& config, Communicator& job) {
    TinyReference reference(config);
    TinyRank rank(config, job);
    Federation federation = rank.federation(rank.link);
    federation.start(rank.weights());
    const std::vector<bool> everyone(rank.world.n_groups(), true);
    for (int64_t round = 1; round <= 4; ++round) {
        rank.train(round);
        reference.train(round);
        const RoundResult result = federation.round(rank.weights());
        reference.round(everyone);
        reference.check(rank);
        FOMOE_CHECK(result.committed && result.round == round);
        FOMOE_CHECK(result.contributed == rank.world.n_groups());
        FOMOE_CHECK(result.counted == result.predicted, "counted ", result.counted.total_sent(),
                    ", predicted ", result.predicted.total_sent());
        FOMOE_CHECK(result.counted.total_sent() == result.counted.total_received());
        for (ParamClass cls : {ParamClass::shared, ParamClass::router, ParamClass::expert})
            FOMOE_CHECK(result.counted.sent_of(traffic_of(cls)) == expected_bytes(config, cls));
        FOMOE_CHECK(result.checksum != 0);
        std::vector<int64_t> hashes(2, static_cast<int64_t>(result.checksum));
        hashes[1] = -hashes[0];
        job.all_reduce_max(view(hashes.data(), Shape(2)));
        FOMOE_CHECK(hashes[0] == -hashes[1], "ranks report different checksums");
        if (rank.world.n_groups() > 1) FOMOE_CHECK(result.drift > 0);
    }
    FOMOE_CHECK(federation.rounds() == 4);
}

const TinyConfig kMixed = tiny_config({{2, 2}, {1, 1}, {4, 2}}, 3);

}  // namespace

TEST_CASE("rounds equal the reference, for groups of any size") {
    for (const TinyConfig& config :
         {tiny_config({{1, 1}, {1, 1}}, 1), tiny_config({{1, 1}, {1, 1}}, 2),
          tiny_config({{2, 2}, {2, 2}}, 1), tiny_config({{2, 1}, {2, 2}}, 2),
          tiny_config({{1, 1}, {3, 1}}, 2), tiny_config({{3, 3}, {2, 1}, {1, 1}}, 1),
          tiny_config({{1, 1}, {2, 2}, {1, 1}, {3, 1}}, 2),
          tiny_config({{1, 1}, {2, 1}, {2, 2}}, 3, OuterKind::average), kMixed}) {
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) { check_rounds(config, job); });
    }
}

TEST_CASE("a named class is stepped even by a single owner") {
    TinyConfig config = tiny_config({{2, 1}, {1, 1}}, 1);
    config.federation.expert = {.optimizer = OuterKind::nesterov, .lr = 0.3, .momentum = 0.5};
    config.federation.expert_named = true;
    config.federation.router = {.optimizer = OuterKind::average, .lr = 1, .momentum = 0};
    config.federation.router_named = true;
    run_ranks(3, [&](Communicator& job) { check_rounds(config, job); });
}

namespace {

// Random periods around H; trains step by step with the rounds where they fall.
void check_periods(TinyConfig config, uint64_t seed, Communicator& job) {
    uint64_t drawn = 0;
    const auto below = [&](uint64_t most) {
        return static_cast<int>(random_bits(seed, drawn++) % most);
    };
    FederationConfig& federation = config.federation;
    const int H = federation.local_steps = 4;
    const int periods[] = {1, 2, 4, 8, 12};
    federation.outer.momentum = 0.6;
    federation.shared = federation.router = federation.expert = federation.outer;
    for (int* steps :
         {&federation.shared_steps, &federation.router_steps, &federation.expert_steps})
        *steps = periods[below(5)];
    federation.shared_named = below(2);
    const int steps = 25;  // the last round is out of turn

    TinyReference reference(config);
    TinyRank rank(config, job);
    Federation rounds = rank.federation(rank.link);
    rounds.start(rank.weights());
    const std::vector<bool> everyone(rank.world.n_groups(), true);
    int64_t n_rounds = 0;
    for (int64_t step = 1; step <= steps; ++step) {
        rank.train(step);
        reference.train(step);
        const Classes due = step == steps ? kAllClasses : classes_due(federation, step);
        if (due == Classes{}) continue;
        const RoundResult result = rounds.round(rank.weights(), {.due = due});
        reference.round(everyone, due);
        reference.check(rank, 2e-5);
        FOMOE_CHECK(result.committed && result.round == ++n_rounds);
        for (const Parameter& p : rank.layout.parameters) {
            const bool stepped = due[static_cast<int>(p.cls)] && p.owners.size() > 1;
            int found = 0;
            for (const Range& range : result.stepped)
                found += range.begin <= p.offset && p.offset + p.count() <= range.end;
            FOMOE_CHECK(found == stepped, p.name, " was stepped ", found, " times");
        }
        FOMOE_CHECK(result.counted == result.predicted);
        for (ParamClass cls : {ParamClass::shared, ParamClass::router, ParamClass::expert})
            FOMOE_CHECK(result.counted.sent_of(traffic_of(cls)) ==
                        (due[static_cast<int>(cls)] ? expected_bytes(config, cls) : 0));
    }
    FOMOE_CHECK(rounds.rounds() == n_rounds && n_rounds >= steps / (3 * H));
}

}  // namespace

TEST_CASE("classes with periods of their own equal the reference") {
    uint64_t seed = 0;
    for (const TinyConfig& config :
         {tiny_config({{1, 1}, {1, 1}}, 2), tiny_config({{2, 2}, {1, 1}}, 1),
          tiny_config({{1, 1}, {2, 1}, {2, 2}}, 3), tiny_config({{2, 2}, {1, 1}, {2, 1}}, 1),
          kMixed, tiny_config({{1, 1}, {2, 2}, {1, 1}, {3, 1}}, 2)}) {
        CAPTURE(++seed);
        run_ranks(config.topology.n_ranks(),
                  [&](Communicator& job) { check_periods(config, seed, job); });
    }
}

TEST_CASE("rounds over MPI equal the reference", "[mpi]") {
    if (!std::getenv("FOMOE_TEST_RANK")) {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
        setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
        const std::string self = std::filesystem::read_symlink("/proc/self/exe");
        const std::string test = Catch::getResultCapture().getCurrentTestName();
        const std::string command =
            concat("FOMOE_TEST_RANK=1 timeout 600 mpirun -n 7 --oversubscribe --bind-to none '",
                   self, "' '", test, "' >/dev/null 2>&1");
        CHECK(std::system(command.c_str()) == 0);
        return;
    }
    const MpiSession session;
    check_rounds(kMixed, *make_mpi_communicator());
}

TEST_CASE("full replication is DiLoCo") {
    const int n_groups = 3;
    const TinyConfig config = tiny_config({{1, 1}, {2, 1}, {2, 2}}, n_groups);
    std::map<std::string, std::vector<float>> expected;
    for (const Parameter& p : config.parameters()) {
        std::vector<float>& theta = expected[p.name];
        theta.resize(p.count());
        initial_values(p, 1, 0, p.count(), theta.data());
        std::vector<float> m(p.count());
        for (int64_t round = 1; round <= 3; ++round)
            for (int64_t i = 0; i < p.count(); ++i) {
                float average = 0;
                for (int group = 0; group < n_groups; ++group)
                    average += (theta[i] + local_progress(round, group, p.name, i)) / n_groups;
                const float delta = theta[i] - average;
                m[i] = 0.9f * m[i] + delta;
                theta[i] -= 0.7f * (0.9f * m[i] + delta);
            }
    }
    run_ranks(5, [&](Communicator& job) {
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        for (int64_t round = 1; round <= 3; ++round) {
            rank.train(round);
            FOMOE_CHECK(federation.round(rank.weights()).committed);
        }
        for (const Parameter& p : rank.layout.parameters)
            for (int64_t i = 0; i < p.count(); ++i)
                FOMOE_CHECK(std::fabs(rank.arena[p.offset + i] - expected[p.name][i]) <
                                1e-6f + 1e-6f * std::fabs(expected[p.name][i]),
                            p.name, "[", i, "]");
    });
}

TEST_CASE("a span longer than the message buffers travels in fragments") {
    TinyConfig config = tiny_config({{1, 1}, {1, 1}, {2, 1}}, 3, OuterKind::average);
    config.model.vocab_size = 300000;
    config.model.init_std = 0;
    run_ranks(4, [&](Communicator& job) {
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        for (const Parameter& p : rank.layout.parameters)
            for (int64_t i = 0; i < p.count(); ++i)
                rank.arena[p.offset + i] = static_cast<float>(i % 9973 + rank.world.group);
        const RoundResult result = federation.round(rank.weights());
        FOMOE_CHECK(result.committed && result.counted == result.predicted);
        for (const Parameter& p : rank.layout.parameters)
            for (int64_t i = 0; i < p.count(); ++i)
                FOMOE_CHECK(std::fabs(rank.arena[p.offset + i] - (i % 9973 + 1)) < 2e-3, p.name,
                            "[", i, "]");
    });
}

TEST_CASE("one group sends nothing and keeps its weights to the bit") {
    const TinyConfig config = tiny_config({{4, 2}}, 1);
    run_ranks(4, [&](Communicator& job) {
        TinyRank rank(config, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        FOMOE_CHECK(federation.bytes() == 0);
        rank.train(1);
        const std::vector<float> before = rank.arena;
        const RoundResult result = federation.round(rank.weights());
        FOMOE_CHECK(same_bits(rank.arena, before));
        FOMOE_CHECK(result.committed && result.contributed == 1);
        FOMOE_CHECK(result.counted.total_sent() == 0 && result.predicted.total_sent() == 0);
    });
}

TEST_CASE("state that was saved and restored goes on as if nothing had happened") {
    run_ranks(kMixed.topology.n_ranks(), [&](Communicator& job) {
        TinyRank rank(kMixed, job);
        Federation federation = rank.federation(rank.link);
        federation.start(rank.weights());
        rank.train(1);
        federation.round(rank.weights());
        rank.train(2);

        TinyRank other(kMixed, job);
        Federation restored = other.federation(other.link);
        other.arena = rank.arena;
        restored.start(other.weights());
        const auto copy = [](const std::vector<StatePiece>& from,
                             const std::vector<StatePiece>& to) {
            FOMOE_CHECK(from.size() == to.size());
            for (size_t i = 0; i < from.size(); ++i) {
                FOMOE_CHECK(from[i].parameter == to[i].parameter && from[i].begin == to[i].begin);
                std::memcpy(to[i].values.data, from[i].values.data, from[i].values.bytes());
            }
        };
        copy(federation.anchor_lanes(), restored.anchor_lanes());
        copy(federation.momentum(), restored.momentum());
        restored.set_rounds(federation.rounds());

        const RoundResult a = federation.round(rank.weights());
        const RoundResult b = restored.round(other.weights());
        FOMOE_CHECK(a.checksum == b.checksum && a.round == 2 && b.round == 2);
        FOMOE_CHECK(same_bits(rank.arena, other.arena));
    });
}

TEST_CASE("the union model and the momentum are every element once") {
    for (const TinyConfig& config : {kMixed, tiny_config({{2, 2}, {3, 1}}, 1)}) {
        std::map<std::string, std::vector<int>> in_union, in_momentum;
        std::vector<std::string> named;
        std::mutex mutex;
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
            TinyRank rank(config, job);
            Federation federation = rank.federation(rank.link);
            federation.start(rank.weights());
            rank.train(1);
            federation.round(rank.weights());
            TinyReference reference(config);
            reference.train(1);
            reference.round(std::vector<bool>(rank.world.n_groups(), true));

            std::lock_guard lock(mutex);
            named = federation.momentum_parameters();
            const auto mark = [&](std::map<std::string, std::vector<int>>& seen,
                                  const std::vector<StatePiece>& pieces) {
                for (const StatePiece& piece : pieces) {
                    std::vector<int>& counts = seen[piece.parameter];
                    counts.resize(rank.layout.find(piece.parameter).count());
                    for (int64_t i = 0; i < piece.values.count(); ++i) counts[piece.begin + i] += 1;
                }
            };
            for (const StatePiece& piece : federation.union_model(rank.weights()))
                FOMOE_CHECK(std::memcmp(piece.values.data, rank.find(piece.parameter) + piece.begin,
                                        piece.values.bytes()) == 0);
            mark(in_union, federation.union_model(rank.weights()));
            mark(in_momentum, federation.momentum());
        });
        for (const Parameter& p : config.parameters())
            CHECK(in_union[p.name] == std::vector<int>(p.count(), 1));
        CHECK(in_momentum.size() == named.size());
        for (const std::string& name : named)
            CHECK(in_momentum[name] == std::vector<int>(in_momentum[name].size(), 1));
    }
}
