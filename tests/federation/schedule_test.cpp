// Rounds whose number of steps changes on the way.
#include <catch2/catch.hpp>

#include "config/phases.h"
#include "federation/tiny_federation.h"

using namespace fomoe;

namespace {

Config run_of(const TinyConfig& config, const std::map<int64_t, int>& schedule) {
    Config run;
    run.model = config.model;
    run.topology = config.topology;
    run.federation = config.federation;
    run.federation.local_steps = 4;
    run.federation.schedule = schedule;
    return run;
}

// Trains `steps` steps with the rounds where they fall; calls after(step) behind each round.
template <class Train, class Round>
void run_phases(const Config& run, int64_t steps, Federation& rounds, Train train, Round round) {
    Phase phase = phase_of(run, 1);
    for (int64_t step = 1; step <= steps; ++step) {
        if (step > phase.end) {
            phase = phase_of(run, step);
            rounds.follow(phase.federation);
        }
        train(step);
        if (classes_due(phase.federation, step - phase.begin) != Classes{}) round(step, phase);
    }
}

}  // namespace

TEST_CASE("rounds of a schedule equal the reference") {
    for (const TinyConfig& config :
         {tiny_config({{1, 1}, {2, 2}}, 2), tiny_config({{2, 1}, {1, 1}}, 1)}) {
        const Config run = run_of(config, {{8, 2}, {12, 6}, {24, 4}});
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
            TinyReference reference(config);
            TinyRank rank(config, job);
            rank.config.federation = phase_of(run, 1).federation;
            Federation rounds = rank.federation(rank.link);
            rounds.start(rank.weights());
            std::vector<int64_t> ends;
            run_phases(
                run, 32, rounds,
                [&](int64_t step) {
                    rank.train(step);
                    reference.train(step);
                },
                [&](int64_t step, const Phase& phase) {
                    const RoundResult result = rounds.round(rank.weights());
                    FOMOE_CHECK(result.committed && result.counted == result.predicted);
                    reference.follow(phase.federation);
                    reference.round(std::vector<bool>(2, true));
                    reference.check(rank, 2e-5);
                    ends.push_back(step);
                });
            FOMOE_CHECK((ends == std::vector<int64_t>{4, 8, 10, 12, 18, 24, 28, 32}));
        });
    }
}

TEST_CASE("a schedule that changes nothing has the bits of none") {
    const TinyConfig config = tiny_config({{1, 1}, {1, 1}}, 2);
    run_ranks(2, [&](Communicator& job) {
        std::vector<std::vector<float>> ends;
        for (const std::map<int64_t, int>& schedule :
             {std::map<int64_t, int>{}, {{4, 4}, {12, 4}}, {{8, 8}}}) {
            TinyRank rank(config, job);
            const Config run = run_of(config, schedule);
            rank.config.federation = phase_of(run, 1).federation;
            Federation rounds = rank.federation(rank.link);
            rounds.start(rank.weights());
            run_phases(
                run, 24, rounds, [&](int64_t step) { rank.train(step); },
                [&](int64_t, const Phase&) { rounds.round(rank.weights()); });
            std::vector<float> all = rank.arena;
            for (const std::vector<float>& part :
                 {contents(rounds.anchor_lanes()), contents(rounds.momentum())})
                all.insert(all.end(), part.begin(), part.end());
            ends.push_back(all);
        }
        FOMOE_CHECK(same_bits(ends[0], ends[1]));
        FOMOE_CHECK(!same_bits(ends[0], ends[2]));
    });
}
