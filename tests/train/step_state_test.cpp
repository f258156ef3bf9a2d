// The state of a step: going on from a copy, stopping, and a step that must not count.
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "support/tiny.h"
#include "train/step.h"

using namespace fomoe;

namespace {

// One rank's part of a step, and all its state.
class Worker {
public:
    Worker(const Config& config, Communicator& job)
        : config_(config),
          world_(config.topology, job.rank(), job.size()),
          placement_(placement_of(config)),
          layout_(arena_layout(all_parameters(config.model, placement_), placement_, world_)),
          ranks_(job, world_),
          step_(config_, world_, placement_, layout_, *backend_, ranks_) {}

    StepResult run(int64_t step, bool stop = false) {
        return step_.run(step, tiny_batch(config_, step, InnerStep::sequences(config_, world_)),
                         stop);
    }
    StepResult run_on(int64_t step, int64_t batch) {
        return step_.run(step, tiny_batch(config_, batch, InnerStep::sequences(config_, world_)),
                         false);
    }
    // Weights and moments, to the bit.
    std::vector<Tensor> state() {
        std::vector<Tensor> all{step_.weights().tensors().values};
        for (const InnerOptimizer::Slice& slice : step_.optimizer().slices()) {
            all.push_back(slice.m);
            all.push_back(slice.v);
        }
        return all;
    }
    std::vector<std::vector<char>> copy() {
        std::vector<std::vector<char>> bytes;
        for (const Tensor& x : state()) {
            const char* data = static_cast<const char*>(x.data);
            bytes.emplace_back(data, data + x.bytes());
        }
        return bytes;
    }
    void restore(const std::vector<std::vector<char>>& bytes) {
        const std::vector<Tensor> all = state();
        for (size_t i = 0; i < all.size(); ++i)
            std::memcpy(all[i].data, bytes[i].data(), bytes[i].size());
    }
    InnerStep& step() { return step_; }
    float* weight(const std::string& name) {
        return step_.weights().tensors().values.as<float>() + layout_.find(name).offset;
    }

private:
    const Config& config_;
    World world_;
    Placement placement_;
    ArenaLayout layout_;
    std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
    GroupCommunicators ranks_;
    InnerStep step_;
};

Config two_ranks() {
    Config config = tiny_sigmoid_config();
    config.topology = tiny_topology({{2, 2}});
    config.model.moe.aux_scope = AuxScope::group;
    return config;
}

// Catch's checks are for one thread, so each rank counts what it finds wrong.
void check_on_two_ranks(const Config& config,
                        const std::function<int(Communicator&)>& count_wrong) {
    REQUIRE(config.topology.n_ranks() == 2);
    std::vector<int> wrong(2, -1);
    run_ranks(2, [&](Communicator& job) { wrong[job.rank()] = count_wrong(job); });
    CHECK(wrong == std::vector<int>{0, 0});
}

}  // namespace

TEST_CASE("a step that goes on from saved state has the bits of one that never stopped") {
    const Config config = two_ranks();
    check_on_two_ranks(config, [&](Communicator& job) {
        Worker kept(config, job), resumed(config, job), without_load(config, job);
        for (int64_t s : {1, 2, 3}) kept.run(s);
        resumed.restore(kept.copy());
        resumed.step().set_load(kept.step().load());
        without_load.restore(kept.copy());
        const StepResult next = kept.run(4), same = resumed.run(4), other = without_load.run(4);
        int wrong = 0;
        wrong += same.loss != next.loss || same.aux != next.aux || same.grad_norm != next.grad_norm;
        wrong += resumed.copy() != kept.copy();
        wrong += resumed.step().load() != kept.step().load();
        // The counts of the step before matter: they are state.
        wrong += other.loss != next.loss || other.aux == next.aux;
        wrong += without_load.copy() == kept.copy();
        return wrong;
    });
}

TEST_CASE("before the first step every expert has the same share") {
    const Config config = two_ranks();
    check_on_two_ranks(config, [&](Communicator& job) {
        Worker fresh(config, job), set(config, job);
        int wrong = fresh.step().load() != std::vector<float>(2 * 8, 0.0f);
        set.step().set_load(fresh.step().load());
        const StepResult a = fresh.run(1), b = set.run(1);
        // E sum f p with f = 1 / E is 1 for every token.
        wrong += std::abs(a.aux - 1) > 1e-5 || a.aux != b.aux || fresh.copy() != set.copy();
        return wrong;
    });
}

TEST_CASE("with aux_scope federation a step goes by the choices of the last exchange") {
    const bool reroutes = GENERATE(false, true);
    Config config = two_ranks();
    config.model.moe.aux_scope = AuxScope::federation;
    config.model.moe.bias_update = 0.01;
    if (reroutes) {
        // The first group of two holds the experts 0 to 3.
        config.topology = tiny_topology({{1, 1}, {1, 1}});
        config.federation.absent = AbsentPolicy::reroute;
    }
    const int E = 8, C = reroutes ? 4 : 8;
    check_on_two_ranks(config, [&](Communicator& job) {
        const std::string bias = "model.layers.1.mlp.gate.e_score_correction_bias";
        Worker worker(config, job), other(config, job), even(config, job);
        if (reroutes && job.rank() == 1) {
            for (int64_t s : {1, 2}) worker.run(s), other.run(s), even.run(s);
            return 0;
        }
        // Before the first exchange all are alike, whatever the steps choose.
        int wrong = std::abs(worker.run(1).aux - 1) > 1e-5;
        other.run(1);
        even.run(1);
        for (int e = 0; e < E; ++e) wrong += worker.weight(bias)[e] != 0;

        // All choices are those of expert 1, and of 6, which the rerouting group does not have.
        std::vector<int64_t> choices(2 * E);
        for (int l : {0, 1}) choices[l * E + 1] = choices[l * E + 6] = 50;
        worker.step().set_exchanged(choices);
        const std::vector<float> none(2 * E);
        other.step().set_load(none);  // means nothing here
        const double aux = worker.run(2).aux, without = other.run(2).aux;
        wrong += std::abs(without - 1) > 1e-5 || std::abs(aux - 1) < 1e-3;

        // The f of the loss: C p_1 where 6 is out of reach, C (p_1 + p_6) / 2 otherwise.
        std::vector<int64_t> one(2 * E);
        for (int l : {0, 1}) one[l * E + 1] = 7;
        even.step().set_exchanged(one);
        const double of_one = even.run(2).aux;
        wrong += (of_one == aux) != reroutes;

        // The bias moves when it is told to, once.
        worker.step().update_selection_bias(choices);
        for (int e = 0; e < C; ++e)
            wrong += worker.weight(bias)[e] != (e == 1 || e == 6 ? -0.01f : 0.01f);
        for (int e = C; e < E; ++e) wrong += worker.weight(bias)[e] != 0;
        return wrong;
    });
}

TEST_CASE("a step that is not finite fails on every rank and changes nothing") {
    const Config config = two_ranks();
    check_on_two_ranks(config, [&](Communicator& job) {
        Worker worker(config, job);
        worker.run(1);
        const auto load = worker.step().load();
        // Of one rank alone: an expert of its shard.
        if (job.rank() == 1)
            worker.weight("model.layers.0.mlp.experts.6.up_proj.weight")[3] =
                std::numeric_limits<float>::infinity();
        const auto before = worker.copy();
        int wrong = 1;
        try {
            worker.run(2);
        } catch (const Error& error) {
            wrong = error.exit != Exit::diverged;
        }
        return wrong + (worker.copy() != before) + (worker.step().load() != load);
    });
}

TEST_CASE("a step that is skipped is as if it had never been, on every rank") {
    Config config = two_ranks();
    config.train.bad_step.action = BadStepAction::skip;
    config.train.optimizer.schedule = LrSchedule::constant;
    config.train.optimizer.warmup = 0;
    check_on_two_ranks(config, [&](Communicator& job) {
        Worker worker(config, job), without(config, job);
        worker.run(1);
        without.run(1);
        const auto before = worker.copy();
        const auto load = worker.step().load();
        // Of one rank alone: an expert of its shard.
        float nothing = 0;
        float* weight = job.rank() == 1
                            ? worker.weight("model.layers.0.mlp.experts.6.up_proj.weight") + 3
                            : &nothing;
        const float was = std::exchange(*weight, std::numeric_limits<float>::infinity());
        int wrong = worker.run(2).bad.empty();
        *weight = was;
        wrong += worker.copy() != before || worker.step().load() != load;
        // AdamW corrects its moments by the number of updates.
        for (int64_t start : worker.step().optimizer().starts()) wrong += start != 1;
        const StepResult next = worker.run(3), same = without.run_on(2, 3);
        wrong += !next.bad.empty() || next.loss != same.loss || next.aux != same.aux;
        wrong += worker.copy() != without.copy() || worker.step().load() != without.step().load();
        return wrong;
    });
}

TEST_CASE("all ranks know when one was asked to stop") {
    const Config config = two_ranks();
    check_on_two_ranks(config, [&](Communicator& job) {
        Worker worker(config, job);
        int wrong = worker.run(1).stop;
        wrong += !worker.run(2, job.rank() == 1).stop;
        return wrong + worker.run(3).stop;
    });
}

TEST_CASE("clipping shrinks the gradient to the largest norm allowed") {
    Config config = two_ranks();
    config.train.optimizer.clip = 0;
    Config clipped = config;
    clipped.train.optimizer.clip = 1e-2;
    check_on_two_ranks(config, [&](Communicator& job) {
        Worker free(config, job), bound(clipped, job);
        const StepResult a = free.run(1), b = bound.run(1);
        int wrong = a.grad_norm != b.grad_norm || a.grad_norm < 0.1;
        // m of the first step is (1 - beta1) g.
        const auto moment = [&](Worker& w) { return w.step().optimizer().slices()[0].m; };
        const Tensor m = moment(free), n = moment(bound);
        const double scale = 1e-2 / a.grad_norm;
        for (int64_t i = 0; i < m.count(); ++i)
            wrong += std::abs(m.as<float>()[i] * scale - n.as<float>()[i]) >
                     1e-6 * std::abs(n.as<float>()[i]) + 1e-12;
        return wrong;
    });
}
