// Faults planted in the messages of a round, and bad contributions: afterwards nothing has changed,
// to the bit, or the commit is that of the others.
#include <catch2/catch.hpp>
#include <limits>

#include "federation/faulty_link.h"
#include "federation/tiny_federation.h"

using namespace fomoe;

namespace {

struct Topology {
    std::vector<std::pair<int, int>> groups;
    int replication;
    TinyConfig config() const { return tiny_config(groups, replication); }
};

// Groups of different sizes, with and without shards.
const std::vector<Topology> kTopologies{
    {{{1, 1}, {1, 1}}, 2}, {{{2, 2}, {1, 1}, {4, 2}}, 3}, {{{2, 1}, {2, 2}}, 2}};

// What must not change when a round fails.
struct Snapshot {
    std::vector<float> local, anchor, momentum;
    int64_t rounds;

    Snapshot(const TinyRank& rank, Federation& federation)
        : local(rank.arena),
          anchor(contents(federation.anchor_lanes())),
          momentum(contents(federation.momentum())),
          rounds(federation.rounds()) {}
    bool operator==(const Snapshot& other) const {
        return same_bits(local, other.local) && same_bits(anchor, other.anchor) &&
               same_bits(momentum, other.momentum) && rounds == other.rounds;
    }
};

// The first rank of a group carries a lane of every class.
bool leads(const TinyRank& rank, int group) {
    return rank.world.group == group && rank.world.local_rank == 0;
}

// Of the first span of a class, a contribution or a result.
int message_of(const TinyConfig& config, bool result) {
    return result ? 2 * (static_cast<int>(config.topology.groups.size()) - 1) : 1;
}

}  // namespace

TEST_CASE("a message that arrives damaged fails the round, to the bit, and names its group") {
    using Case = std::pair<Fault, Traffic>;
    const auto [fault, traffic] =
        GENERATE(Case{Fault::nan, Traffic::shared}, Case{Fault::huge, Traffic::expert},
                 Case{Fault::flip, Traffic::shared}, Case{Fault::flip, Traffic::router},
                 Case{Fault::flip, Traffic::expert});
    const bool result_message = GENERATE(false, true);
    for (const Topology& topology : kTopologies) {
        const TinyConfig config = topology.config();
        const int by = config.topology.groups.size() > 2 ? 2 : 1;
        run_ranks(config.topology.n_ranks(),
                  [&, fault = fault, traffic = traffic](Communicator& job) {
                      TinyReference reference(config);
                      TinyRank rank(config, job);
                      FaultyLink link(rank.world, rank.link);
                      Federation federation = rank.federation(link);
                      federation.start(rank.weights());
                      const std::vector<bool> everyone(rank.world.n_groups(), true);
                      for (int64_t round = 1; round <= 3; ++round) {
                          rank.train(round);
                          reference.train(round);
                          const bool fails = round == 2;
                          if (fails && leads(rank, by))
                              link.plan(fault, traffic, message_of(config, result_message));
                          const Snapshot before(rank, federation);
                          const RoundResult result = federation.round(rank.weights());
                          FOMOE_CHECK(result.counted == result.predicted && link.done());
                          FOMOE_CHECK(result.committed == !fails);
                          if (!fails) {
                              FOMOE_CHECK(result.failure == Failure{});
                              reference.round(everyone);
                              reference.check(rank);
                              continue;
                          }
                          FOMOE_CHECK((result.failure == Failure{FailureKind::damaged, by}));
                          FOMOE_CHECK(result.checksum == 0 && result.stepped.empty());
                          FOMOE_CHECK(text_of(result.failure, rank.world) ==
                                      concat("a message of group 'g", by, "' arrived damaged"));
                          FOMOE_CHECK(before == Snapshot(rank, federation));
                      }
                  });
    }
}

TEST_CASE("a message that does not come in time is an error, and nothing has changed") {
    const Fault fault = GENERATE(Fault::drop, Fault::delay);
    const bool result_message = GENERATE(false, true);
    for (const Topology& topology : kTopologies) {
        TinyConfig config = topology.config();
        const int n_ranks = config.topology.n_ranks();
        std::vector<int> unchanged(n_ranks);
        std::string said;
        try {
            run_ranks(n_ranks, [&](Communicator& job) {
                TinyRank rank(config, job);
                FaultyLink link(rank.world, rank.link);
                Federation federation = rank.federation(link);
                federation.start(rank.weights());
                rank.train(1);
                federation.round(rank.weights());
                rank.train(2);
                JobLink impatient(rank.world, job, 0.2);
                link.through(impatient);
                if (leads(rank, 1))
                    link.plan(fault, Traffic::shared, message_of(config, result_message), 1.0);
                const Snapshot before(rank, federation);
                try {
                    federation.round(rank.weights());
                } catch (const Error& error) {
                    unchanged[job.rank()] =
                        error.exit == Exit::communication && before == Snapshot(rank, federation);
                    throw;
                }
            });
            FAIL("it ended");
        } catch (const Error& error) {
            CHECK(error.exit == Exit::communication);
            said = error.what();
        }
        CHECK_THAT(said, Catch::Contains("no message from rank") &&
                             Catch::Contains("federation.exchange_timeout"));
        CHECK(unchanged == std::vector<int>(n_ranks, 1));
    }
}

TEST_CASE("a contribution that is bad at its source leaves the commit of the others") {
    const bool huge = GENERATE(false, true);
    const std::string name = "model.layers.1.mlp.experts.2.down_proj.weight";
    for (const Topology& topology :
         {Topology{{{2, 2}, {1, 1}, {4, 2}}, 3}, Topology{{{1, 1}, {2, 1}, {1, 1}, {2, 2}}, 2}}) {
        TinyConfig config = topology.config();
        config.federation.reject_above = 5;
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
            TinyReference reference(config);
            TinyRank rank(config, job);
            Federation federation = rank.federation(rank.link);
            federation.start(rank.weights());
            for (int64_t round = 1; round <= 3; ++round) {
                rank.train(round);
                reference.train(round);
                std::vector<bool> contributed(rank.world.n_groups(), true);
                contributed[2] = round != 2;
                // On every rank of the group that holds it: holders hold the same.
                if (!contributed[2] && rank.world.group == 2)
                    for (const Parameter& p : rank.layout.parameters)
                        if (p.name == name)
                            rank.arena[p.offset + 7] =
                                huge ? 1e30f : std::numeric_limits<float>::quiet_NaN();
                const RoundResult result = federation.round(rank.weights());
                reference.round(contributed);
                FOMOE_CHECK(result.committed && result.counted == result.predicted);
                FOMOE_CHECK(result.contributed == rank.world.n_groups() - (round == 2));
                reference.check(rank);
            }
        });
    }
}
