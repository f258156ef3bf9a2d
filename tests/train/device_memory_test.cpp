// Training on a device whose memory the host cannot touch, and in bf16: the same bits as where it
// can, one wait a step, and no copy of the weights that is older than they are.
#include <catch2/catch.hpp>
#include <fstream>
#include <optional>

#include "data/token_file.h"
#include "support/guarded_backend.h"
#include "support/step_plan.h"
#include "support/temporary_directory.h"
#include "train/run.h"

using namespace fomoe;

namespace {

namespace fs = std::filesystem;

using MakeBackend = std::unique_ptr<Backend> (*)();
std::unique_ptr<Backend> on_cpu() { return make_cpu_backend(1); }
std::unique_ptr<Backend> on_device() { return std::make_unique<GuardedBackend>(); }

// Token files of random ids.
void write_tokens(const fs::path& prefix, int vocab_size) {
    for (const char* part : {".train", ".valid"}) {
        TokenFileWriter writer(prefix.string() + part, TokenType::u16);
        for (int d = 0; d < 40; ++d) {
            std::vector<int32_t> tokens(50);
            for (size_t i = 0; i < tokens.size(); ++i)
                tokens[i] = static_cast<int32_t>(random_bits(d, i) % vocab_size);
            writer.add_document(tokens);
        }
        writer.commit();
    }
}

// Two groups of one rank each, with all that a run can have.
Config whole_run(Config config, ComputeType dtype, AbsentPolicy absent, const fs::path& directory) {
    config.train.dtype = dtype;
    config.train.steps = 9;
    config.model.vocab_size = 320;
    config.data.sources = {{"some", directory / "some"}};
    config.data.valid_sequences = 4;
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    config.model.moe.aux_scope = AuxScope::federation;
    FederationConfig& f = config.federation;
    f.absent = absent;
    f.local_steps = 3;
    f.router_steps = 6;
    f.evaluate_every = 1;
    f.inner_state = InnerState::average;
    f.exchange_timeout = 60;
    config.checkpoint = {.every = 2, .keep = 0};
    config.calibration = {.steps = 2, .lr = 0.01, .local_steps = 1};
    return config;
}

// Trains to the end, from the start or from a checkpoint.
void train_in(const fs::path& directory, const Config& config, MakeBackend make,
              std::optional<fs::path> from = {}) {
    const RunPlan plan{.directory = directory, .checkpoint = from};
    run_ranks(2, [&](Communicator& job) {
        const auto backend = make();
        StopRequests never;
        Activity activity;
        const RunEnd end =
            train_run(config, plan, job, {*backend, {}, {.reason = "asked for"}}, never, activity);
        FOMOE_CHECK(end.exit == Exit::done);
    });
}

// Path -> bytes of the tensors of all checkpoints.
std::map<std::string, std::string> tensors(const fs::path& directory) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(directory)) {
        if (entry.path().extension() != ".safetensors") continue;
        std::ifstream file(entry.path(), std::ios::binary);
        files[entry.path().lexically_relative(directory)] = {std::istreambuf_iterator<char>(file),
                                                             {}};
    }
    return files;
}

}  // namespace

TEST_CASE("a whole run on a device is that of the CPU, to the bit") {
    for (const ComputeType dtype : {ComputeType::f32, ComputeType::bf16})
        for (const AbsentPolicy absent : {AbsentPolicy::skip, AbsentPolicy::proxy}) {
            const bool skips = absent == AbsentPolicy::skip;
            INFO(name_of(dtype_of(dtype)) << (skips ? ", skip" : ", proxy"));
            TemporaryDirectory place;
            const Config config = whole_run(skips ? tiny_sigmoid_config() : tiny_softmax_config(),
                                            dtype, absent, place.path());
            write_tokens(place / "some", config.model.vocab_size);
            train_in(place / "cpu", config, on_cpu);
            train_in(place / "device", config, on_device);
            // Each goes on from what the other has left, between two rounds and behind one.
            const auto left = [&](const char* name, int64_t step) {
                return fs::path(place / name) / "checkpoints" / step_directory(step);
            };
            train_in(place / "later", config, on_device, left("cpu", 4));
            train_in(place / "back", config, on_cpu, left("device", 6));

            const auto expected = tensors(place / "cpu");
            REQUIRE(expected.size() >= 8);
            for (const char* name : {"device", "later", "back"}) {
                INFO(name);
                const auto found = tensors(place / name);
                REQUIRE(found.size() >= 8);
                for (const auto& [path, bytes] : found) {
                    INFO(path);
                    CHECK((expected.at(path) == bytes));
                }
            }
        }
}

TEST_CASE("from the third step on a step allocates nothing and waits once") {
    for (const ComputeType dtype : {ComputeType::f32, ComputeType::bf16}) {
        Config config = tiny_sigmoid_config();
        config.model.moe.aux_scope = AuxScope::group;
        config.train.dtype = dtype;
        const Placement placement = placement_of(config);
        const World world(config.topology, 0, 1);
        const ArenaLayout layout =
            arena_layout(all_parameters(config.model, placement), placement, world);
        GuardedBackend backend;
        const auto alone = make_self_communicator();
        GroupCommunicators ranks(*alone, world);
        InnerStep step(config, world, placement, layout, backend, ranks);
        for (int64_t s = 1; s <= 6; ++s) {
            const int64_t allocations = backend.allocations(), waits = backend.host_waits();
            step.run(s, tiny_batch(config, s, {0, config.train.batch}), false);
            CHECK(backend.host_waits() - waits == 1);
            if (s >= 3) CHECK(backend.allocations() == allocations);
        }
    }
}

TEST_CASE("a step that diverges changes nothing on a device") {
    Config config = tiny_sigmoid_config();
    config.train.dtype = ComputeType::bf16;
    const Placement placement = placement_of(config);
    const World world(config.topology, 0, 1);
    const ArenaLayout layout =
        arena_layout(all_parameters(config.model, placement), placement, world);
    GuardedBackend backend;
    const auto alone = make_self_communicator();
    GroupCommunicators ranks(*alone, world);
    InnerStep step(config, world, placement, layout, backend, ranks);
    step.run(1, tiny_batch(config, 1, {0, 8}), false);
    step.weights().change_on_host([&](Tensor weights) {
        weights.as<float>()[layout.find("model.norm.weight").offset] = INFINITY;
    });
    const auto state = [&] {
        const ConstTensor weights = step.weights().on_host();
        std::vector<float> all(weights.as<float>(), weights.as<float>() + weights.count());
        for (const InnerOptimizer::Slice& slice : step.optimizer().slices())
            for (int moment : {0, 1}) {
                const OnHost values = step.optimizer().moment_on_host(slice, moment);
                const float* x = values.tensor().as<float>();
                all.insert(all.end(), x, x + values.tensor().count());
            }
        return all;
    };
    const std::vector<float> before = state();
    try {
        step.run(2, tiny_batch(config, 2, {0, 8}), false);
        FAIL("a step with an infinite weight");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::diverged);
    }
    CHECK(std::memcmp(before.data(), state().data(), before.size() * sizeof(float)) == 0);
    CHECK(step.weights().copy_is_current());
}

TEST_CASE("every change of the weights reaches their bf16 copy") {
    for (const MakeBackend make : {on_cpu, on_device}) {
        Config config = tiny_sigmoid_config();
        config.train.dtype = ComputeType::bf16;
        const Placement placement = placement_of(config);
        const World world(config.topology, 0, 1);
        const ArenaLayout layout =
            arena_layout(all_parameters(config.model, placement), placement, world);
        const auto backend = make();
        const auto alone = make_self_communicator();
        GroupCommunicators ranks(*alone, world);
        InnerStep step(config, world, placement, layout, *backend, ranks);
        WeightArena& weights = step.weights();
        CHECK(weights.copy_is_current());  // start values
        step.run(1, tiny_batch(config, 1, {0, 8}), false);
        CHECK(weights.copy_is_current());  // AdamW, and the selection bias
        const std::vector<int64_t> choices(
            int64_t{config.model.n_layers} * config.model.moe.n_experts, 1);
        step.update_selection_bias(choices);
        CHECK(weights.copy_is_current());
        const auto add = [](Tensor values) {
            for (int64_t i = 0; i < values.count(); ++i) values.as<float>()[i] += 0.25f;
        };
        weights.change_on_host(add);  // commit, load, roll-back
        CHECK(weights.copy_is_current());
        weights.change({3, 50}, [&](Tensor values) { backend->zero(values); });
        CHECK(weights.copy_is_current());

        // A stale copy is found.
        weights.change_both([&](const WeightTensors& both) { backend->zero(both.values); });
        CHECK_FALSE(weights.copy_is_current());
    }
}

TEST_CASE("a change on the host moves what it reads and changes, and does not wait to send it") {
    constexpr int64_t kSize = 4096, kBytes = sizeof(float);
    GuardedBackend backend;
    WeightArena weights(kSize, DType::bf16, backend);
    std::vector<float> expected(kSize);
    for (int64_t i = 0; i < kSize; ++i) expected[i] = static_cast<float>(i) / 64;
    weights.change(
        [&](Tensor values) { backend.copy_from_host(values, expected.data(), Queue::compute); });
    const auto change = [&](std::vector<Range> reads, std::vector<Range> changes, float by) {
        weights.change_on_host(reads, [&](Tensor values) {
            for (const Range& range : reads)
                CHECK(std::equal(expected.begin() + range.begin, expected.begin() + range.end,
                                 values.as<float>() + range.begin));
            for (const Range& range : changes)
                for (int64_t i = range.begin; i < range.end; ++i)
                    values.as<float>()[i] = expected[i] += by;
            return changes;
        });
    };
    const auto check_all = [&] {
        const ConstTensor found = weights.on_host();
        CHECK(std::equal(expected.begin(), expected.end(), found.as<float>()));
        CHECK(weights.copy_is_current());
    };
    change({{100, 200}, {300, 310}}, {{120, 130}, {305, 306}}, 1);
    CHECK(backend.downloaded() == 110 * kBytes);
    CHECK(backend.uploaded() == 11 * kBytes);
    // What was sent is not there yet, and is read again, changed again and rounded.
    change({{110, 140}, {0, 10}}, {{125, 135}}, 2);
    change({{130, 140}}, {}, 0);
    CHECK(backend.uploaded() == 21 * kBytes);
    check_all();
    change({{0, kSize}}, {{0, kSize}}, 0.5f);
    check_all();
}

TEST_CASE("bf16 follows f32, on one rank and on several") {
    // Where rounding sends choices to other experts, the loss of one batch of 8 sequences scatters:
    // then the losses of some seeds follow closer together than each by itself.
    struct Bounds {
        Config config;
        double each, together;  // relative, of the loss of a step
    };
    constexpr int kSeeds = 4;
    constexpr int64_t kSteps = 30;
    for (const auto& [config, each, together] :
         {Bounds{tiny_sigmoid_config(), 2e-2, 6e-3}, {tiny_softmax_config(), 3e-3, 2e-3}}) {
        Plan plan{config, kSteps};
        plan.config.train.optimizer.lr = 1e-2;
        std::vector<double> f32_sum(kSteps), bf16_sum(kSteps);
        double apart = 0;
        Trained bf16;
        for (int seed = 1; seed <= kSeeds; ++seed) {
            INFO("seed " << seed);
            plan.config.seed = seed;
            plan.config.train.dtype = ComputeType::f32;
            const Trained f32 = train(on_ranks(plan, 1, 1, 8));
            REQUIRE(f32.results.back().loss < 0.97 * f32.results.front().loss);
            plan.config.train.dtype = ComputeType::bf16;
            bf16 = train(on_ranks(plan, 1, 1, 8));
            for (int64_t s = 0; s < kSteps; ++s) {
                CHECK(bf16.results[s].loss == Approx(f32.results[s].loss).epsilon(each));
                apart += std::abs(bf16.results[s].loss / f32.results[s].loss - 1);
                f32_sum[s] += f32.results[s].loss;
                bf16_sum[s] += bf16.results[s].loss;
            }
        }
        for (int64_t s = 0; s < kSteps; ++s)
            CHECK(bf16_sum[s] == Approx(f32_sum[s]).epsilon(together));
        apart /= kSeeds * kSteps;
        CHECK(apart > 0);
        CHECK(apart < 3e-3);
        for (const Split& split : {Split{2, 2, 4}, {2, 1, 2}, {4, 2, 1}, {4, 4, 2}}) {
            INFO(split.ranks << " ranks, expert parallel " << split.expert_parallel);
            const Trained cut =
                train(on_ranks(plan, split.ranks, split.expert_parallel, split.micro_batch));
            CHECK(cut.results[0].loss == Approx(bf16.results[0].loss).epsilon(1e-3));
            CHECK(cut.results.back().loss == Approx(bf16.results.back().loss).epsilon(1e-2));
        }
    }
}
