// From full replicas to a placement: the state that stays, put together by hand from the run with
// full replicas, trains to the same bits as a run restored from its checkpoint.
#include <catch2/catch.hpp>
#include <mutex>

#include "config/phases.h"
#include "support/temporary_directory.h"
#include "support/tiny.h"
#include "train/run_state.h"

using namespace fomoe;

namespace {

constexpr int kSteps = 4;  // of a round; the warm-up has two

// One rank of a federation in a phase.
class Rank {
public:
    Rank(const Config& config, Communicator& job, int64_t step)
        : config_(config),
          job_(job),
          phase_(phase_of(config, step)),
          world_(config.topology, job.rank(), job.size()),
          placement_(Placement::in_step(config, step)),
          all_(all_parameters(config.model, placement_)),
          layout_(arena_layout(all_, placement_, world_)),
          ranks_(job, world_),
          step_(config_, world_, placement_, layout_, *backend_, ranks_),
          link_(world_, job, 60),
          federation_(phase_.federation, all_, layout_, placement_, world_, link_,
                      *ranks_.group.host, *ranks_.expert_replicas.host, config_.model) {}

    RunState state() {
        return {config_, all_, placement_, world_, layout_, frozen_, step_, federation_};
    }

    void train(int64_t from, int64_t to) {
        if (from == 1) federation_.start(step_.weights().on_host());
        for (int64_t step = from; step <= to; ++step) {
            step_.run(step,
                      tiny_batch(config_, combine_bits(step, world_.group),
                                 InnerStep::sequences(config_, world_)),
                      false);
            if ((step - phase_.begin) % kSteps != 0) continue;
            const RoundResult result = federation_.round(step_.weights().tensors().values);
            FOMOE_CHECK(result.committed && result.counted == result.predicted);
            if (config_.federation.inner_state == InnerState::reset)
                for (const Range& range : result.stepped) step_.optimizer().restart(range, step);
        }
    }

    void save(const std::filesystem::path& directory, int64_t step) {
        Manifest about = describe_run(config_, 1);
        about.step = step;
        about.round = federation_.rounds();
        const StateToSave saved = state_to_save(state());
        save_checkpoint(job_, directory, {.about = about, .config = &config_, .sets = saved.sets},
                        {});
    }

    // All that a parameter has on this rank, by name: weight, m, v, start of the moments.
    std::map<std::string, std::vector<float>> kept() {
        std::map<std::string, std::vector<float>> found;
        for (size_t i = 0; i < layout_.parameters.size(); ++i) {
            const Parameter& p = layout_.parameters[i];
            for (const Tensor& x : tensors(p)) {
                const float* at = x.as<float>();
                found[p.name].insert(found[p.name].end(), at, at + p.count());
            }
            found[p.name].push_back(static_cast<float>(step_.optimizer().starts()[i]));
        }
        return found;
    }
    void take(const std::map<std::string, std::vector<float>>& from) {
        std::vector<int64_t> starts;
        for (const Parameter& p : layout_.parameters) {
            const float* at = from.at(p.name).data();
            for (const Tensor& x : tensors(p)) {
                std::copy_n(at, p.count(), x.as<float>());
                at += p.count();
            }
            starts.push_back(static_cast<int64_t>(*at));
        }
        step_.optimizer().set_starts(starts);
    }

    InnerStep& step() { return step_; }
    Federation& federation() { return federation_; }

private:
    // A group of one rank steps all of its arena.
    std::vector<Tensor> tensors(const Parameter& p) {
        std::vector<Tensor> found{step_.weights().tensors().values.slice(p.offset, p.count())};
        for (const InnerOptimizer::Slice& slice : step_.optimizer().slices())
            if (p.offset >= slice.begin && p.offset < slice.begin + slice.size)
                for (const Tensor& x : {slice.m, slice.v})
                    found.push_back(x.slice(p.offset - slice.begin, p.count()));
        FOMOE_CHECK(found.size() == 3);
        return found;
    }

    const Config& config_;
    Communicator& job_;
    Phase phase_;
    World world_;
    Placement placement_;
    std::vector<Parameter> all_;
    ArenaLayout layout_;
    const FrozenLayout frozen_;  // none
    std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
    GroupCommunicators ranks_;
    InnerStep step_;
    JobLink link_;
    Federation federation_;
};

// The pieces of all ranks together, parameter by parameter.
class Board {
public:
    void put(const std::vector<StatePiece>& pieces) {
        const std::lock_guard lock(mutex_);
        for (const StatePiece& piece : pieces) {
            std::vector<float>& values = values_[piece.parameter];
            values.resize(std::max<size_t>(values.size(), piece.begin + piece.values.count()));
            std::copy_n(piece.values.as<float>(), piece.values.count(),
                        values.begin() + piece.begin);
        }
    }
    void get(std::vector<StatePiece> pieces) const {
        for (StatePiece& piece : pieces)
            std::copy_n(values_.at(piece.parameter).begin() + piece.begin, piece.values.count(),
                        piece.values.as<float>());
    }

private:
    std::mutex mutex_;
    Values values_;
};

std::vector<Config> warmed_up() {
    Config config = tiny_sigmoid_config();
    config.model.moe.aux_scope = AuxScope::group;
    config.model.moe.bias_update = 0.001;
    config.model.vocab_size = 320;
    config.data.sources = {{"none", "/none"}};  // the batches are made here
    config.train.steps = 100;
    config.topology = tiny_topology({{1, 1}, {1, 1}, {1, 1}, {1, 1}});
    config.federation.local_steps = kSteps;
    config.federation.replication_warmup = 2;
    std::vector<Config> configs(4, config);
    configs[0].federation.replication = 2;
    configs[1].federation.placement = PlacementKind::rotate;
    configs[2].federation.placement = PlacementKind::explicit_lists;
    configs[2].topology.experts = {
        {"g0", {0, 1, 2, 5}}, {"g1", {2, 3, 7}}, {"g2", {1, 2, 4, 6}}, {"g3", {0, 6}}};
    // Experts with one owner go on with their momentum.
    configs[3].federation.absent = AbsentPolicy::reroute;
    configs[3].federation.expert_named = true;
    configs[3].federation.inner_state = InnerState::reset;
    return configs;
}

}  // namespace

TEST_CASE("the warm-up has the bits of full replicas") {
    for (const Config& config : warmed_up()) {
        Config full = config;
        full.federation.placement = PlacementKind::blocks;
        full.federation.replication = 4;
        full.federation.replication_warmup = 0;
        run_ranks(4, [&](Communicator& job) {
            Rank a(config, job, 1), b(full, job, 1);
            a.train(1, 8);
            b.train(1, 8);
            FOMOE_CHECK(a.kept() == b.kept());
        });
    }
}

TEST_CASE("what a group keeps after the warm-up goes on bit for bit") {
    for (const Config& config : warmed_up()) {
        const TemporaryDirectory directory;
        Board anchor, momentum;
        run_ranks(4, [&](Communicator& job) {
            Rank full(config, job, 1);
            full.train(1, 8);
            full.save(directory.path(), 8);
            anchor.put(full.federation().union_model(full.step().weights().tensors().values));
            momentum.put(full.federation().momentum());
            job.barrier();

            Rank by_hand(config, job, 9), restored(config, job, 9), forgetful(config, job, 9);
            for (Rank* rank : {&by_hand, &forgetful}) {
                rank->take(full.kept());
                rank->step().set_load(full.step().load());
                rank->federation().set_rounds(2);
                anchor.get(rank->federation().anchor_lanes());
            }
            momentum.get(by_hand.federation().momentum());
            restore(restored.state(), Checkpoint(directory / step_directory(8)));
            FOMOE_CHECK(restored.federation().rounds() == 2);
            FOMOE_CHECK(restored.kept() == by_hand.kept());
            for (Rank* rank : {&by_hand, &restored, &forgetful}) rank->train(9, 17);
            FOMOE_CHECK(restored.kept() == by_hand.kept());
            FOMOE_CHECK(restored.kept() != forgetful.kept());  // the momentum counts
        });
    }
}

TEST_CASE("only the placement behind the warm-up itself takes over the state of the groups") {
    const Config config = warmed_up()[0];
    const TemporaryDirectory directory;
    run_ranks(4, [&](Communicator& job) {
        Rank full(config, job, 1);
        full.train(1, 8);
        full.save(directory.path(), 8);
        Rank placed(config, job, 9);
        FOMOE_CHECK(restore(placed.state(), Checkpoint(directory / step_directory(8))).own_state);
        placed.train(9, 9);
        placed.save(directory.path(), 9);
        job.barrier();
        // The way back would need what nobody has saved.
        Config back = config;
        back.federation.replication = 4;
        back.federation.replication_warmup = 0;
        Rank wide(back, job, 10);
        const ResumePoint point = restore(wide.state(), Checkpoint(directory / step_directory(9)));
        FOMOE_CHECK(!point.own_state);
        FOMOE_CHECK(point.why_not.find("the experts of 'g0' in layer") == 0, point.why_not);
    });
}
