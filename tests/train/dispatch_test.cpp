// Tokens on their way to experts on other ranks: two lanes of them, and more than there is room
// for.
#include "support/step_plan.h"

using namespace fomoe;

namespace {

void check_same_bits(const Trained& a, const Trained& b) {
    CHECK(a.loads == b.loads);
    CHECK(a.weights == b.weights);
    CHECK(a.gradients == b.gradients);  // of all slices: none is NaN
    REQUIRE(a.results.size() == b.results.size());
    for (size_t s = 0; s < a.results.size(); ++s) {
        CHECK(a.results[s].loss == b.results[s].loss);
        CHECK(a.results[s].grad_norm == b.results[s].grad_norm);
        CHECK(a.results[s].aux == Approx(b.results[s].aux).epsilon(1e-12));
    }
}

// Every token goes to expert 5 first.
void favour_one(InnerStep& step, const ArenaLayout& layout) {
    for (const Parameter& p : layout.parameters)
        if (!p.trained) step.weights().tensors().values.as<float>()[p.offset + 5] += 100;
}

Plan skewed(double factor) {
    Plan plan{tiny_sigmoid_config(), 3, favour_one};
    plan.config.model.moe.top_k = 1;
    plan.config.model.moe.bias_update = 0;
    plan.config.train.dispatch_factor = factor;
    return plan;
}

}  // namespace

TEST_CASE("two halves of a micro-batch in turns have the bits of two micro-batches") {
    Config softmax = tiny_softmax_config();
    softmax.model.tie_embeddings = false;  // tied, their gradient adds up in another order
    for (const Config& config : {tiny_sigmoid_config(), softmax})
        for (const auto& [ranks, expert_parallel] : {std::pair{2, 2}, {4, 2}}) {
            Plan plan = on_ranks({config, 3}, ranks, expert_parallel, 1);
            const Trained apart = train(plan);
            plan = on_ranks(plan, ranks, expert_parallel, 2);
            const Trained whole = train(plan);
            plan.config.train.two_batch_overlap = true;
            const Trained overlapped = train(plan);
            check_same_bits(overlapped, apart);
            CHECK(overlapped.weights != whole.weights);  // the bits tell micro-batches apart
        }
}

TEST_CASE("a step whose tokens have no room makes it and has the bits of one that had it") {
    const Trained roomy = train(on_ranks(skewed(4), 4, 4, 2));
    const Trained tight = train(on_ranks(skewed(1), 4, 4, 2));
    check_same_bits(tight, roomy);
    for (const StepResult& result : roomy.results) CHECK(result.room.rows == 0);
    // Tokens with a target, of all four ranks.
    const int64_t N = 2 * int64_t{tiny_sigmoid_config().data.seq_len};
    CHECK(tight.results[0].room.rows > N);
    CHECK(tight.results[0].room.rows <= 4 * N);
    CHECK(tight.results[0].room.choices == tight.results[0].room.rows);
    for (size_t s = 1; s < 3; ++s) CHECK(tight.results[s].room.rows == 0);
}

TEST_CASE("ranks of one shard make room when those of another have none") {
    // Two pairs of ranks; only the first pair's tokens are real, the others' all differ.
    Plan roomy = on_ranks(skewed(2), 4, 2, 2), tight = on_ranks(skewed(1), 4, 2, 2);
    for (Plan* plan : {&roomy, &tight}) {
        plan->prepare = [](InnerStep&, const ArenaLayout&) {};
        plan->batch = [config = plan->config](int64_t step, Range own) {
            Batch batch = tiny_batch(config, step, own);
            // One token over and over chooses one expert.
            if (own.begin < config.train.batch / 2) std::ranges::fill(batch.tokens, 3);
            return batch;
        };
    }
    const Trained grown = train(tight);
    check_same_bits(grown, train(roomy));
    CHECK(grown.results[0].room.rows > 0);
}

TEST_CASE("an evaluation makes room, too, and counts each choice once") {
    const auto evaluated = [](double factor) {
        const Config config = on_ranks(skewed(factor), 2, 2, 4).config;
        std::vector<float> losses;
        std::vector<float> load;
        std::mutex mutex;
        run_ranks(2, [&](Communicator& job) {
            const World world(config.topology, job.rank(), 2);
            const Placement placement = placement_of(config);
            const ArenaLayout layout =
                arena_layout(all_parameters(config.model, placement), placement, world);
            const auto backend = make_cpu_backend(1);
            GroupCommunicators ranks(job, world);
            InnerStep step(config, world, placement, layout, *backend, ranks);
            favour_one(step, layout);
            const Batch batch = tiny_batch(config, 1, {0, 4});
            std::vector<float> own(step.transformer().tokens());
            step.transformer().evaluate({.token = batch.tokens,
                                         .target = batch.targets,
                                         .position = batch.positions,
                                         .begin = batch.begin},
                                        own);
            if (job.rank() > 0) return;
            std::lock_guard lock(mutex);
            losses = own;
            load = step.transformer().totals().load;
        });
        return std::pair(losses, load);
    };
    const auto [roomy, load] = evaluated(2);
    CHECK(evaluated(1) == std::pair(roomy, load));
    CHECK(load[5] > 0);
}
