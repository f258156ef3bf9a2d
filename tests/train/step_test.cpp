// A step of a group: what it may not depend on, what any routing does to it, and that it learns.
#include "support/step_plan.h"

using namespace fomoe;

namespace {

// Choices of the steps that went to another expert, at least.
double flipped(const Trained& a, const Trained& b) {
    double changed = 0;
    for (size_t s = 0; s < a.loads.size(); ++s)
        for (size_t i = 0; i < a.loads[s].size(); ++i)
            changed += std::abs(a.loads[s][i] - b.loads[s][i]) / 2;
    return changed;
}

double norm(const Values& values) {
    double squares = 0;
    for (const auto& [name, elements] : values)
        for (float x : elements) squares += double{x} * x;
    return std::sqrt(squares);
}

double norm_of_experts(const Values& values, const std::string& expert) {
    Values some;
    for (const auto& [name, elements] : values)
        if (name.find(".mlp.experts." + expert) != std::string::npos) some[name] = elements;
    return norm(some);
}

// Adds to the selection bias of these experts in every layer.
auto favour(std::map<int, float> experts) {
    return [experts](InnerStep& step, const ArenaLayout& layout) {
        for (const Parameter& p : layout.parameters)
            if (!p.trained)
                for (const auto& [expert, bias] : experts)
                    step.weights().tensors().values.as<float>()[p.offset + expert] += bias;
    };
}

}  // namespace

TEST_CASE("ranks, expert parallelism and accumulation do not change the gradients") {
    for (AuxScope scope : {AuxScope::sequence, AuxScope::group})
        for (const Config& config : {tiny_sigmoid_config(), tiny_softmax_config()}) {
            Plan plan{config};
            plan.config.model.moe.aux_scope = scope;
            const Trained alone = train(on_ranks(plan, 1, 1, 8));
            CHECK(alone.results[0].grad_norm == Approx(norm(alone.gradients)).epsilon(1e-6));
            check_same_gradients(plan, alone, kSplits);
        }
}

TEST_CASE("ranks, expert parallelism and accumulation do not change fifty steps") {
    Plan plan{tiny_sigmoid_config()};
    plan.steps = 50;
    plan.config.train.optimizer.lr = 1e-2;
    const Trained alone = train(on_ranks(plan, 1, 1, 8));
    REQUIRE(alone.results.back().loss < 0.95 * alone.results.front().loss);
    for (const Split& split : kSplits) {
        const Trained cut =
            train(on_ranks(plan, split.ranks, split.expert_parallel, split.micro_batch));
        const double error = std::abs(cut.results.back().loss / alone.results.back().loss - 1);
        INFO(split.ranks << " ranks, expert parallel " << split.expert_parallel << ", micro-batch "
                         << split.micro_batch << ": loss off by " << error << ", "
                         << flipped(cut, alone) << " choices flipped");
        CHECK(error <= 1e-4);
    }
}

TEST_CASE("all tokens on one expert") {
    Plan plan{tiny_sigmoid_config(), 1, favour({{5, 100.0f}})};
    plan.config.model.moe.top_k = 1;
    const Trained alone = train(on_ranks(plan, 1, 1, 8));
    const float valid = static_cast<float>(alone.results[0].valid_tokens);
    for (int e = 0; e < 8; ++e) CHECK(alone.loads[0][e] == (e == 5 ? valid : 0));
    CHECK(alone.results[0].imbalance == Approx(8));
    CHECK(norm_of_experts(alone.gradients, "5") > 0);
    CHECK(norm_of_experts(alone.gradients, "4") == 0);
    check_same_gradients(plan, alone, kSplits);
}

TEST_CASE("all tokens on one shard, the other ranks have none") {
    // With four shards experts 2 and 3 are the second's, with two the first's.
    Plan plan{tiny_sigmoid_config(), 1, favour({{2, 100.0f}, {3, 50.0f}})};
    const Trained alone = train(on_ranks(plan, 1, 1, 8));
    CHECK(norm_of_experts(alone.gradients, "2") > 0);
    CHECK(norm_of_experts(alone.gradients, "6") == 0);
    check_same_gradients(plan, alone, kSplits);
}

TEST_CASE("an expert and a shard without tokens") {
    Plan plan{tiny_sigmoid_config(), 1, favour({{1, -100.0f}, {6, -100.0f}, {7, -100.0f}})};
    const Trained alone = train(on_ranks(plan, 1, 1, 8));
    CHECK(norm_of_experts(alone.gradients, "1") == 0);
    CHECK(norm_of_experts(alone.gradients, "0") > 0);
    check_same_gradients(plan, alone, kSplits);
}

TEST_CASE("a shard that has no tokens any more has no gradients either") {
    Plan plan{tiny_sigmoid_config(), 2};
    plan.config.model.moe.top_k = 1;
    plan.config.train.optimizer.lr = plan.config.train.optimizer.min_lr = 0;
    plan.batch = [config = plan.config](int64_t step, Range own) {
        Batch batch = tiny_batch(config, step, own);
        if (step == 2) std::ranges::fill(batch.tokens, 3);  // all choose one expert
        return batch;
    };
    const Trained alone = train(on_ranks(plan, 1, 1, 8));
    CHECK(std::ranges::count(alone.loads[0], 0.0f) < std::ranges::count(alone.loads[1], 0.0f));
    check_same_gradients(plan, alone, kSplits);
}

TEST_CASE("a rank whose sequences have no target") {
    Plan plan{tiny_sigmoid_config()};
    plan.batch = [&](int64_t step, Range sequences) {
        const int64_t T = plan.config.data.seq_len;
        Batch batch = tiny_batch(plan.config, step, {0, 8});
        // The first two sequences: the first of four ranks.
        for (int64_t n = 0; n < 2 * T; ++n) {
            batch.group_valid_tokens -= batch.targets[n] >= 0;
            batch.targets[n] = -1;
        }
        const auto part = [&](std::vector<int32_t>& x) {
            x = {x.begin() + sequences.begin * T, x.begin() + sequences.end * T};
        };
        for (auto* x : {&batch.tokens, &batch.targets, &batch.positions, &batch.begin}) part(*x);
        batch.n_sequences = sequences.size();
        return batch;
    };
    const Trained alone = train(on_ranks(plan, 1, 1, 8));
    check_same_gradients(plan, alone, kSplits);
}

TEST_CASE("shards of different sizes, and tokens with more choices than a shard has experts") {
    Plan plan{tiny_sigmoid_config()};
    plan.config.train.batch = 6;
    plan.config.model.moe.top_k = 5;
    const Trained alone = train(on_ranks(plan, 1, 1, 6));
    check_same_gradients(plan, alone, {{3, 3, 2}, {3, 3, 1}, {6, 3, 1}, {3, 1, 2}});
}

TEST_CASE("a model of dense layers only") {
    Plan plan{tiny_softmax_config()};
    plan.config.model.moe.first_dense_layers = 2;
    const Trained alone = train(on_ranks(plan, 1, 1, 8));
    CHECK(alone.results[0].executed_choices == 0);
    CHECK(alone.results[0].aux == 0);
    CHECK(alone.results[0].grad_norm > 0);
    check_same_gradients(plan, alone, kSplits);
}

TEST_CASE("absent experts, some of the choices and all of them") {
    for (const auto& [bias, skipped] : {std::pair{0.0f, -1.0}, {100.0f, 1.0}, {-100.0f, 0.0}}) {
        INFO("bias of the absent experts " << bias);
        Plan plan{tiny_sigmoid_config(), 1, favour({{4, bias}, {5, bias}, {6, bias}, {7, bias}})};
        plan.config.topology = tiny_topology({{1, 1}, {1, 1}});
        const Trained alone = train(on_ranks(plan, 1, 1, 8));
        const StepResult& result = alone.results[0];
        const double choices = 2.0 * 2 * static_cast<double>(result.valid_tokens);
        CHECK(result.executed_choices == Approx(choices * (1 - result.skipped)));
        if (skipped < 0) {
            CHECK(result.skipped > 0.1);
            CHECK(result.skipped < 0.9);
        } else {
            CHECK(result.skipped == skipped);
        }
        if (skipped == 1) CHECK(norm_of_experts(alone.gradients, "") == 0);
        CHECK(alone.gradients.count("model.layers.0.mlp.experts.4.up_proj.weight") == 0);
        check_same_gradients(plan, alone, kSplits);
    }
}

TEST_CASE("residents of any placement, in shards of any size") {
    for (const Config& config : otherwise_placed(tiny_sigmoid_config())) {
        Plan plan{config};
        const Trained alone = train(on_ranks(plan, 1, 1, 8));
        const Placement placement = placement_of(config);
        for (int l : {0, 1})
            for (int e = 0; e < 8; ++e)
                CHECK(alone.gradients.contains(
                          concat("model.layers.", l, ".mlp.experts.", e, ".up_proj.weight")) ==
                      (placement.slot(l, 0, e) >= 0));
        check_same_gradients(plan, alone, kSplits);
    }
}

TEST_CASE("64 tokens are overfitted to a loss below 0.05 in 200 steps") {
    Plan plan{tiny_config(), 200};
    Config& config = plan.config;
    config.model.d_model = 32;
    config.model.moe.d_expert = 32;
    config.model.vocab_size = 64;
    config.data.seq_len = 16;
    config.train = {.steps = 200, .batch = 4, .micro_batch = 2};
    config.train.optimizer = {.lr = 1e-2, .min_lr = 1e-3, .warmup = 10, .weight_decay = 0};
    config.topology = tiny_topology({{2, 2}});
    plan.batch = [&](int64_t, Range sequences) {
        Batch batch = tiny_batch(config, 1, sequences);
        // Tokens by chance: nothing to learn but these.
        for (size_t n = 0; n < batch.tokens.size(); ++n) {
            const uint64_t at = static_cast<uint64_t>(sequences.begin) * 16 + n;
            batch.tokens[n] = static_cast<int32_t>(random_bits(77, at) % 64);
            batch.targets[n] = static_cast<int32_t>(random_bits(77, at + 1) % 64);
        }
        batch.group_valid_tokens = 64;
        return batch;
    };
    const Trained outcome = train(plan);
    CHECK(outcome.results.front().loss > 3.5);
    INFO("loss " << outcome.results.back().loss);
    CHECK(outcome.results.back().loss < 0.05);
}

TEST_CASE("the selection bias moves towards balance") {
    Plan plan{tiny_sigmoid_config(), 1, favour({{2, 0.3f}, {3, 0.2f}})};
    plan.config.train.optimizer.lr = plan.config.train.optimizer.min_lr = 0;  // the bias alone
    plan.batch = [&](int64_t, Range sequences) { return tiny_batch(plan.config, 1, sequences); };
    const Trained before = train(plan);
    const int E = 8;
    for (int l = 0; l < 2; ++l) {
        const auto& bias =
            before.weights.at(concat("model.layers.", l, ".mlp.gate.e_score_correction_bias"));
        const float* load = before.loads[0].data() + l * E;
        const double mean = 2.0 * static_cast<double>(before.results[0].valid_tokens) / E;
        for (int e = 0; e < E; ++e) {
            const float start = e == 2 ? 0.3f : e == 3 ? 0.2f : 0.0f;
            CHECK(bias[e] == Approx(start + (load[e] < mean   ? 0.01
                                             : load[e] > mean ? -0.01
                                                              : 0))
                                 .margin(1e-7));
        }
    }
    plan.steps = 60;
    const Trained after = train(plan);
    INFO("imbalance " << after.results.front().imbalance << " to "
                      << after.results.back().imbalance);
    CHECK(after.results.front().imbalance > 2.5);
    CHECK(after.results.back().imbalance < 1.4);
}
