// Random federations under random policies and troubles, against the reference in one process.
// FOMOE_TRIAL=17 in the environment runs that trial alone.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <limits>
#include <optional>

#include "federation/moment_rank.h"
#include "federation/random_trial.h"

using namespace fomoe;

namespace {

// What a rank holds after a round.
struct Seen {
    int64_t step;
    RoundResult result;
    std::vector<float> weights;
    std::array<std::vector<float>, kMoments> moments;  // as in the arena, where it keeps them
    std::vector<bf16> copies;
    int64_t copies_age;
    std::vector<int64_t> exchanged;
};
struct RankLog {
    World world;
    ArenaLayout layout;
    FrozenLayout frozen;
    std::vector<Range> slices;  // of the arena, whose moments are kept here
    std::vector<Seen> rounds;
};

class TrialRank : public MomentRank {
public:
    TrialRank(const Trial& trial, Communicator& job)
        : MomentRank(trial.tiny, job),
          trial_(trial),
          frozen_(frozen_layout(config.parameters(), placement, world)),
          copies_(frozen_.size),
          exchange_(config.parameters(), layout, frozen_, placement, world, link, *replicas) {
        for (const Parameter& p : frozen_.parameters)
            initial_copies(p, 1, 0, p.count(), copies_.data() + p.offset);
    }

    RankLog run() {
        RankLog log{
            .world = world, .layout = layout, .frozen = frozen_, .slices = {}, .rounds = {}};
        for (const InnerOptimizer::Slice& slice : optimizer.slices())
            log.slices.push_back({slice.begin, slice.begin + slice.size});
        begin(1)->start(weights());
        for (int64_t step = 1; step <= trial_.steps; ++step) {
            const Phase phase = trial_.phase(step);
            if (step == phase.begin + 1 && step > 1) federation_->follow(phase.federation);
            train(step, *federation_);
            const Classes due = trial_.due(step);
            if (due != Classes{}) log.rounds.push_back(round(step, due));
            if (step == trial_.resume_after) resume(step + 1);
        }
        return log;
    }

private:
    Federation* begin(int64_t step) {
        config.federation = trial_.phase(step).federation;
        federation_ =
            std::make_unique<Federation>(config.federation, config.parameters(), layout, placement,
                                         world, link, *group, *replicas, config.model);
        if (trial_.averages()) federation_->average_moments(optimizer);
        if (trial_.proxy)
            federation_->keep_frozen(exchange_, view(copies_.data(), Shape(std::ssize(copies_))),
                                     config.federation.refresh);
        return federation_.get();
    }

    // Another federation goes on with what a checkpoint keeps.
    void resume(int64_t step) {
        const std::unique_ptr<Federation> before = std::move(federation_);
        begin(step);
        const auto take = [](std::vector<StatePiece> to, const std::vector<StatePiece>& from) {
            FOMOE_CHECK(to.size() == from.size(), "other pieces of state");
            for (size_t i = 0; i < to.size(); ++i) {
                FOMOE_CHECK(to[i].parameter == from[i].parameter);
                std::copy_n(from[i].values.as<float>(), from[i].values.count(),
                            to[i].values.as<float>());
            }
        };
        take(federation_->anchor_lanes(), before->anchor_lanes());
        take(federation_->momentum(), before->momentum());
        std::ranges::copy(before->counts().values(), federation_->counts().values().begin());
        federation_->exchanged_choices() = before->exchanged_choices();
        *federation_->copies_age().as<int64_t>() = *before->copies_age().as<int64_t>();
        federation_->set_rounds(before->rounds());
    }

    Seen round(int64_t step, const Classes& due) {
        train_moments(step);
        const Mishap mishap = trial_.mishap(step);
        if (mishap.trouble != Trouble::none && mishap.group == world.group) spoil(mishap);
        Seen seen{.step = step};
        seen.result = federation_->round(weights(), {.due = due, .moments = trial_.moments(step)});
        seen.weights = arena;
        for (int moment = 0; moment < kMoments; ++moment) {
            seen.moments[moment].resize(layout.size());
            for_each_moment(*this, optimizer, moment, [&](const Parameter& p, int64_t i, float x) {
                seen.moments[moment][p.offset + i] = x;
            });
        }
        seen.copies = copies_;
        seen.copies_age = *federation_->copies_age().as<int64_t>();
        seen.exchanged = federation_->exchanged_choices();
        return seen;
    }

    void spoil(const Mishap& mishap) {
        const bool held = std::ranges::count(layout.parameters, mishap.name, &Parameter::name) > 0;
        if (mishap.trouble == Trouble::weight && held)
            find(mishap.name)[0] = std::numeric_limits<float>::quiet_NaN();
        if (mishap.trouble == Trouble::moment)
            for_each_moment(*this, optimizer, 1, [&](const Parameter& p, int64_t i, float& x) {
                if (p.name == mishap.name && i == 0) x = std::numeric_limits<float>::infinity();
            });
        if (mishap.trouble == Trouble::outlier)
            for (const Parameter& p : layout.parameters)
                for (int64_t i = 0; i < p.count(); ++i) arena[p.offset + i] += 3.0f;
    }

    const Trial& trial_;
    FrozenLayout frozen_;
    std::vector<bf16> copies_;
    FrozenCopies exchange_;
    std::unique_ptr<Federation> federation_;
};

void check_near(double x, double expected, const std::string& name, int64_t i) {
    if (!std::isfinite(expected) && !std::isfinite(x)) return;
    FOMOE_CHECK(std::fabs(x - expected) <= 1e-5 * std::max(1.0, std::fabs(expected)), name, "[", i,
                "] is ", x, ", expected ", expected);
}

// The whole federation in one process; every round that the ranks saw must be what it does.
class Judge {
public:
    Judge(const Trial& trial, const std::vector<std::optional<RankLog>>& ranks)
        : trial_(trial),
          ranks_(ranks),
          all_(trial.tiny.parameters()),
          reference_(trial.tiny),
          choices_(trial.tiny.model.n_layers * trial.tiny.model.moe.n_experts) {
        for (const Parameter& p : all_) {
            FOMOE_CHECK(!p.owners.empty(), p.name, " has no owner");
            std::vector<bf16> start(p.count());
            initial_copies(p, 1, 0, p.count(), start.data());
            copies_[p.name] = start;
        }
    }

    void judge() {
        size_t round = 0;
        for (int64_t step = 1; step <= trial_.steps; ++step) {
            reference_.follow(trial_.phase(step).federation);
            reference_.train(step);
            for (int group = 0; group < n_groups(); ++group) {
                const std::vector<float> more = local_counts(trial_.tiny, step, group).choices;
                std::ranges::transform(choices_, more, choices_.begin(), std::plus());
            }
            if (trial_.due(step) != Classes{}) judge(round++, step);
        }
        FOMOE_CHECK(round >= 3);
        for (const auto& rank : ranks_)
            FOMOE_CHECK(rank->rounds.size() == round, "other rounds than expected");
    }

private:
    int n_groups() const { return static_cast<int>(trial_.tiny.topology.groups.size()); }

    void judge(size_t round, int64_t step) {
        const Classes due = trial_.due(step);
        const Moments moments = trial_.moments(step);
        for (const Parameter& p : all_)
            for (int group : p.owners)
                for (int m = 0; m < kMoments; ++m) {
                    std::vector<double>& values = reference_.moment(m, group, p.name);
                    values.clear();
                    for (int64_t i = 0; i < p.count(); ++i)
                        values.push_back(local_moment(step, group, p.name, m, i));
                }
        spoil(trial_.mishap(step));
        const std::vector<bool> contributed = reference_.contributors(due, moments);
        const auto n = std::ranges::count(contributed, true);
        reference_.round(contributed, due, moments);
        if (n > 0 && due[static_cast<int>(ParamClass::router)]) {
            if (trial_.tiny.model.moe.aux_scope == AuxScope::federation) exchanged_ = choices_;
            std::ranges::fill(choices_, 0);
        }
        if (n > 0 && due[static_cast<int>(ParamClass::expert)]) ++age_;
        const bool refreshes = trial_.proxy && age_ == trial_.run.federation.refresh;
        if (refreshes) refresh(round, contributed);

        const RoundResult& first = ranks_[0]->rounds.at(round).result;
        std::map<std::string, const float*> agreed;
        for (const auto& rank : ranks_) {
            const Seen& seen = rank->rounds.at(round);
            const RoundResult& result = seen.result;
            FOMOE_CHECK(seen.step == step && result.contributed == n, result.contributed,
                        " contributed at step ", step, ", expected ", n);
            FOMOE_CHECK(result.committed == (n > 0) && result.checksum == first.checksum);
            FOMOE_CHECK((result.checksum != 0) == result.committed);
            FOMOE_CHECK(result.counted == result.predicted && result.counted == first.counted,
                        "counted ", result.counted.total_sent(), " bytes, predicted ",
                        result.predicted.total_sent());
            FOMOE_CHECK(result.refreshed == refreshes);
            FOMOE_CHECK(!trial_.proxy || seen.copies_age == age_);
            for (size_t i = 0; i < exchanged_.size(); ++i)
                FOMOE_CHECK(seen.exchanged[i] == static_cast<int64_t>(exchanged_[i]));
            check_values(*rank, seen);
            check_agreement(*rank, seen, contributed, due, agreed);
            if (trial_.proxy) check_copies(*rank, seen);
        }
        if (n == n_groups()) check_bytes(first, due, 1 + moments[0] + moments[1]);
    }

    void spoil(const Mishap& mishap) {
        constexpr double inf = std::numeric_limits<double>::infinity();
        if (mishap.trouble == Trouble::weight) reference_.local(mishap.group, mishap.name)[0] = inf;
        if (mishap.trouble == Trouble::moment)
            reference_.moment(1, mishap.group, mishap.name)[0] = inf;
        if (mishap.trouble == Trouble::outlier)
            for (const Parameter& p : all_)
                if (std::ranges::binary_search(p.owners, mishap.group))
                    reference_.add(mishap.group, p.name, 3);
    }

    // Copies become what a contributing owner holds now.
    void refresh(size_t round, const std::vector<bool>& contributed) {
        age_ = 0;
        for (const auto& rank : ranks_) {
            if (!contributed[rank->world.group]) continue;
            for (const Parameter& p : rank->layout.parameters)
                std::transform(rank->rounds.at(round).weights.begin() + p.offset,
                               rank->rounds.at(round).weights.begin() + p.offset + p.count(),
                               copies_.at(p.name).begin(), to_bf16);
        }
    }

    void check_values(const RankLog& rank, const Seen& seen) {
        for (const Parameter& p : rank.layout.parameters) {
            const std::vector<double>& expected = reference_.local(rank.world.group, p.name);
            for (int64_t i = 0; i < p.count(); ++i)
                check_near(seen.weights[p.offset + i], expected[i], p.name, i);
            for (int m = 0; m < kMoments; ++m) {
                const std::vector<double>& moment = reference_.moment(m, rank.world.group, p.name);
                for (const Range& slice : rank.slices)
                    for (int64_t i = std::max<int64_t>(0, slice.begin - p.offset);
                         i < std::min(p.count(), slice.end - p.offset); ++i)
                        check_near(seen.moments[m][p.offset + i], moment[i], "moment " + p.name, i);
            }
        }
    }

    void check_agreement(const RankLog& rank, const Seen& seen,
                         const std::vector<bool>& contributed, const Classes& due,
                         std::map<std::string, const float*>& agreed) {
        for (const Parameter& p : rank.layout.parameters) {
            const bool stepped =
                due[static_cast<int>(p.cls)] &&
                std::ranges::any_of(p.owners, [&](int group) { return contributed[group]; });
            if (!stepped) continue;
            const float* x = seen.weights.data() + p.offset;
            const float* other = agreed.try_emplace(p.name, x).first->second;
            FOMOE_CHECK(std::memcmp(x, other, p.count() * sizeof(float)) == 0, p.name,
                        " differs between owners");
        }
    }

    void check_copies(const RankLog& rank, const Seen& seen) {
        for (const Parameter& p : rank.frozen.parameters)
            for (int64_t i = 0; i < p.count(); ++i)
                FOMOE_CHECK(seen.copies[p.offset + i].bits == copies_.at(p.name)[i].bits,
                            "the copy of ", p.name, "[", i, "] is ",
                            to_f32(seen.copies[p.offset + i]), ", expected ",
                            to_f32(copies_.at(p.name)[i]));
    }

    void check_bytes(const RoundResult& result, const Classes& due, int times) {
        for (ParamClass cls : {ParamClass::shared, ParamClass::router, ParamClass::expert}) {
            const bool sent = due[static_cast<int>(cls)];
            FOMOE_CHECK(result.counted.sent_of(traffic_of(cls)) ==
                        (sent ? times * expected_bytes(trial_.tiny, cls) : 0));
        }
    }

    const Trial& trial_;
    const std::vector<std::optional<RankLog>>& ranks_;
    std::vector<Parameter> all_;
    TinyReference reference_;
    std::map<std::string, std::vector<bf16>> copies_;
    int64_t age_ = 0;
    std::vector<float> choices_, exchanged_;  // (L, E)
};

void run_trial(uint64_t key) {
    const Trial trial = make_trial(key);
    std::vector<std::optional<RankLog>> ranks(trial.tiny.topology.n_ranks());
    run_ranks(static_cast<int>(ranks.size()),
              [&](Communicator& job) { ranks[job.rank()] = TrialRank(trial, job).run(); });
    Judge(trial, ranks).judge();
}

void run_trials(uint64_t begin, uint64_t end) {
    const char* only = std::getenv("FOMOE_TRIAL");
    for (uint64_t key = begin; key < end; ++key) {
        if (only && key != std::strtoull(only, nullptr, 10)) continue;
        INFO("trial " << key);
        CHECK_NOTHROW(run_trial(key));
    }
}

}  // namespace

TEST_CASE("random federations under random policies equal the reference") { run_trials(0, 60); }

TEST_CASE("many random federations under random policies equal the reference", "[slow]") {
    run_trials(60, 260);
}
