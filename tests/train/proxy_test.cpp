// Training beside frozen copies against replicas of the whole model whose other experts hold what
// the copies should.
#include "federation/round.h"
#include "support/step_plan.h"

using namespace fomoe;

namespace {

Config two_groups(Config config, std::vector<std::pair<int, int>> groups = {{1, 1}, {1, 1}}) {
    config.topology = tiny_topology(groups);
    config.federation.absent = AbsentPolicy::proxy;
    return config;
}

// What the owners of each parameter held when they last sent it, rounded. Shared by threads.
class SentValues {
public:
    void set(const ArenaLayout& layout, const float* weights) {
        const std::lock_guard lock(mutex_);
        for (const Parameter& p : layout.parameters) {
            if (p.cls != ParamClass::expert) continue;
            std::vector<float>& values = values_[p.name];
            values.resize(p.count());
            for (int64_t i = 0; i < p.count(); ++i)
                values[i] = to_f32(to_bf16(weights[p.offset + i]));
        }
    }
    const std::vector<float>& of(const Parameter& p) const { return values_.at(p.name); }

private:
    Values values_;
    std::mutex mutex_;
};

struct Difference {
    double loss = 0, gradient = 0, router = 0;  // relative; NMSE
    int64_t compared = 0;                       // parameters
};

// A group of one rank, and beside it a replica of the whole model.
class Pair {
public:
    Pair(const Config& config, Communicator& job)
        : config_(config),
          whole_config_(config),
          placement_(placement_of(config)),
          world_(config.topology, job.rank(), job.size()),
          all_(all_parameters(config.model, placement_)),
          layout_(arena_layout(all_, placement_, world_)),
          frozen_(frozen_layout(all_, placement_, world_)),
          ranks_(job, world_),
          step_(config_, world_, placement_, layout_, *backend_, ranks_, &frozen_),
          link_(world_, job, 60),
          copies_(all_, layout_, frozen_, placement_, world_, link_, *ranks_.expert_replicas.host),
          federation_(config_.federation, all_, layout_, placement_, world_, link_,
                      *ranks_.group.host, *ranks_.expert_replicas.host, config_.model) {
        whole_config_.topology = tiny_topology({{1, 1}});
        whole_config_.federation.absent = AbsentPolicy::skip;
        federation_.keep_frozen(copies_, step_.copies(), config.federation.refresh);
        federation_.start(step_.weights().on_host());
    }

    // Trains one step with the copies, and says how far it is from a replica that starts from the
    // same weights and, for absent experts, `sent`.
    Difference step(int64_t s, const SentValues& sent) {
        const World world(whole_config_.topology, 0, 1);
        const Placement placement = placement_of(whole_config_);
        const ArenaLayout layout =
            arena_layout(all_parameters(config_.model, placement), placement, world);
        const auto alone = make_self_communicator();
        GroupCommunicators ranks(*alone, world);
        InnerStep whole(whole_config_, world, placement, layout, *backend_, ranks);
        for (const Parameter& p : layout.parameters) {
            float* to = whole.weights().tensors().values.as<float>() + p.offset;
            const auto held = std::ranges::find(layout_.parameters, p.name, &Parameter::name);
            if (held != layout_.parameters.end())
                std::copy_n(step_.weights().values().as<float>() + held->offset, p.count(), to);
            else
                std::ranges::copy(sent.of(p), to);
        }
        whole.set_load(step_.load());
        const Batch batch =
            tiny_batch(config_, 100 * s + world_.group, InnerStep::sequences(config_, world_));
        const StepResult expected = whole.run(s, batch, false), got = step_.run(s, batch, false);

        FOMOE_CHECK(step_.load() == whole.load(), "other experts were chosen");
        FOMOE_CHECK(got.skipped == 0 && got.served > 0 && got.served < 1);
        FOMOE_CHECK(got.executed_choices == expected.executed_choices);
        Difference difference{.loss = std::abs(got.loss - expected.loss) / expected.loss};
        Values mine, theirs, router, their_router;
        for (const Parameter& p : layout_.parameters) {
            const auto values = [&](const InnerStep& of, int64_t offset) {
                const float* g = of.gradients().as<float>() + offset;
                return std::vector<float>(g, g + p.count());
            };
            mine[p.name] = values(step_, p.offset);
            theirs[p.name] = values(whole, layout.find(p.name).offset);
            if (p.cls != ParamClass::router || !p.trained) continue;
            router[p.name] = mine[p.name];
            their_router[p.name] = theirs[p.name];
        }
        difference.gradient = nmse(mine, theirs);
        difference.router = nmse(router, their_router);
        difference.compared = std::ssize(mine);
        return difference;
    }
    RoundResult round() { return federation_.round(step_.weights().tensors().values); }
    void say(SentValues& sent) { sent.set(layout_, step_.weights().values().as<float>()); }

private:
    const Config config_;
    Config whole_config_;
    Placement placement_;
    World world_;
    std::vector<Parameter> all_;
    ArenaLayout layout_;
    FrozenLayout frozen_;
    std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
    GroupCommunicators ranks_;
    InnerStep step_;
    JobLink link_;
    FrozenCopies copies_;
    Federation federation_;
};

}  // namespace

TEST_CASE("gradients are those of a full replica whose other experts hold the refreshed copies") {
    for (Config config : {tiny_config(), tiny_sigmoid_config(), tiny_softmax_config()})
        for (int refresh : {1, 2}) {
            config = two_groups(config);
            config.federation.refresh = refresh;
            config.train.optimizer.lr = 1e-2;
            SentValues sent;
            std::mutex mutex;
            std::vector<Difference> differences;
            run_ranks(2, [&](Communicator& job) {
                Pair pair(config, job);
                pair.say(sent);
                job.barrier();
                for (int64_t s = 1; s <= 5; ++s) {
                    const Difference difference = pair.step(s, sent);
                    const RoundResult result = pair.round();
                    FOMOE_CHECK(result.committed && result.refreshed == (s % refresh == 0));
                    job.barrier();
                    if (result.refreshed) pair.say(sent);
                    job.barrier();
                    const std::lock_guard lock(mutex);
                    differences.push_back(difference);
                }
            });
            REQUIRE(differences.size() == 10);
            for (const Difference& difference : differences) {
                CHECK(difference.loss < 1e-6);
                CHECK(difference.gradient < 1e-10);
                CHECK(difference.router < 1e-10);
                CHECK(difference.compared > 20);
            }
        }
}

TEST_CASE("copies take no step, and everything else does") {
    Plan plan{two_groups(tiny_config())};
    plan.steps = 3;
    std::vector<bf16> before, after;
    plan.prepare = [&](InnerStep& step, const ArenaLayout&) {
        const bf16* copies = step.copies().as<bf16>();
        FOMOE_CHECK(step.copies().count() == 2 * 4 * 384);
        before.assign(copies, copies + step.copies().count());
    };
    const Trained outcome = train(plan);
    for (const StepResult& result : outcome.results) {
        CHECK(result.skipped == 0);
        CHECK(result.served == Approx(0.5).margin(0.2));
        CHECK(result.executed_choices == 2.0 * 2 * static_cast<double>(result.valid_tokens));
    }
    for (const auto& [name, gradient] : outcome.gradients)
        CHECK(std::ranges::any_of(gradient, [](float g) { return g != 0; }));
}
