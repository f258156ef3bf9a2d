// The planned memory against what is really allocated.
#include "plan/memory.h"

#include <catch2/catch.hpp>

#include "federation/round.h"
#include "ops/cpu/cpu_backend.h"
#include "optim/inner_optimizer.h"
#include "plan/plan.h"
#include "plan/traffic.h"
#include "support/tiny.h"

using namespace fomoe;

namespace {

MemoryPlan plan_of(const Config& config, int rank) {
    const Placement placement = placement_of(config);
    const World world(config.topology, rank, config.topology.n_ranks());
    const std::vector<Parameter> all = all_parameters(config.model, placement);
    const bool copies = config.federation.absent == AbsentPolicy::proxy;
    const FrozenLayout frozen = frozen_layout(all, placement, world);
    return memory_plan(config, world, arena_layout(all, placement, world),
                       copies ? &frozen : nullptr, 1, 0);
}

}  // namespace

TEST_CASE("weights, moments and activations are planned as they are allocated") {
    Config config = tiny_sigmoid_config();
    config.topology = tiny_topology({{4, 2}});
    const Placement placement = placement_of(config);
    for (int rank = 0; rank < 4; ++rank) {
        const World world(config.topology, rank, 4);
        const ArenaLayout layout =
            arena_layout(all_parameters(config.model, placement), placement, world);
        const std::unique_ptr<Backend> backend = make_cpu_backend(1);
        const InnerOptimizer optimizer(config.train.optimizer, layout, world, *backend);
        const MemoryPlan plan = memory_plan(config, world, layout, nullptr, 1, 0);
        CHECK(plan.weights == layout.size() * 4);
        CHECK(plan.gradients == plan.weights);
        CHECK(plan.moments == optimizer.bytes());
        const BatchShape shape = Transformer::batch_shape(
            config.model, layout, world, config.train.micro_batch, config.data.seq_len, true);
        CHECK(plan.activations > 0);
        CHECK(plan.activations <= Transformer::activation_bytes(config.model, shape));
    }
}

TEST_CASE("the outer state is planned as it is held, its messages beside it") {
    for (const InnerState state : {InnerState::keep, InnerState::average})
        for (const OuterKind kind : {OuterKind::average, OuterKind::nesterov}) {
            Config config = tiny_config();
            config.topology = tiny_topology({{1, 1}, {2, 2}, {2, 1}, {4, 2}});
            config.federation.replication = 2;
            config.federation.inner_state = state;
            for (OuterConfig* outer : {&config.federation.outer, &config.federation.shared,
                                       &config.federation.router, &config.federation.expert})
                outer->optimizer = kind;
            const Placement placement = placement_of(config);
            const std::vector<Parameter> all = all_parameters(config.model, placement);
            for (int rank = 0; rank < 9; ++rank) {
                const World world(config.topology, rank, 9);
                const ArenaLayout layout = arena_layout(all, placement, world);
                const auto alone = make_self_communicator();
                JobLink link(world, *alone, 1);
                const std::unique_ptr<Backend> backend = make_cpu_backend(1);
                InnerOptimizer optimizer(config.train.optimizer, layout, world, *backend);
                Federation federation(config.federation, all, layout, placement, world, link,
                                      *alone, *alone, config.model);
                if (state == InnerState::average) federation.average_moments(optimizer);
                int64_t wire = 0;
                for (const OwnedSpan& span : federation.spans())
                    if (span.owner >= 0 && span.lane() >= 0 && span.n_owners() > 1)
                        wire = std::max(
                            wire, (3 * span.n_owners() + 1) * span.chunk(span.lane(), 0).size());
                if (rank == 0) CHECK(wire > 0);
                CHECK(outer_bytes(config.federation, federation.spans(), layout) ==
                      federation.bytes() + 4 * wire);
            }
        }
}

TEST_CASE("where every choice is executed on one rank, the bound is the plan") {
    Config config = tiny_config();
    config.topology = tiny_topology({{1, 1}});
    const Placement placement = placement_of(config);
    const World world(config.topology, 0, 1);
    const ArenaLayout layout =
        arena_layout(all_parameters(config.model, placement), placement, world);
    const BatchShape shape = Transformer::batch_shape(
        config.model, layout, world, config.train.micro_batch, config.data.seq_len, false);
    CHECK(plan_of(config, 0).activations == Transformer::activation_bytes(config.model, shape));
}

TEST_CASE("the state of the experts is proportional to replication / groups") {
    Config config = tiny_config();
    config.topology = tiny_topology({{1, 1}, {1, 1}, {1, 1}, {1, 1}});
    config.federation.replication = 4;
    const int64_t full = plan_of(config, 0).expert_state;
    for (int replication : {1, 2}) {
        config.federation.replication = replication;
        for (int rank = 0; rank < 4; ++rank)
            CHECK(plan_of(config, rank).expert_state * 4 == full * replication);
    }
}

TEST_CASE("frozen copies cost two bytes for each value that the group lacks") {
    Config config = tiny_config();
    config.topology = tiny_topology({{1, 1}, {2, 2}, {2, 1}, {4, 2}});
    const int64_t expert = 3 * 16 * 8, layers = 2;
    for (int replication : {1, 2, 4}) {
        config.federation.replication = replication;
        config.federation.absent = AbsentPolicy::skip;
        const MemoryPlan skip = plan_of(config, 0);
        CHECK(skip.copies == 0);
        config.federation.absent = AbsentPolicy::proxy;
        const int64_t absent = 2 * layers * expert * (8 - 2 * replication);
        const int64_t of_rank[] = {absent, absent / 2, absent / 2, absent, absent};
        for (int rank = 0; rank < 5; ++rank) CHECK(plan_of(config, rank).copies == of_rank[rank]);
        CHECK(plan_of(config, 0).expert_state == skip.expert_state);
        CHECK(plan_of(config, 0).total() - plan_of(config, 0).copies >= skip.total());
    }
}

TEST_CASE("a calibration plans no gradients and moments of experts") {
    const Config config = tiny_config();
    const Placement placement = placement_of(config);
    const World world(config.topology, 0, 1);
    const ArenaLayout layout =
        arena_layout(calibrated_parameters(config.model, placement, CalibratedWeights::router),
                     placement, world);
    const MemoryPlan plan = memory_plan(config, world, layout, nullptr, 1, 0);
    CHECK(plan.weights == 4 * layout.size());
    CHECK(plan.gradients == 4 * layout.dense.size);
    CHECK(plan.moments == 8 * layout.dense.size);
    CHECK(plan.expert_state == 4 * layout.expert.size);
}

TEST_CASE("an evaluation needs activations, and what of copies and weights is not there") {
    Config config = tiny_config();
    config.topology = tiny_topology({{1, 1}, {2, 2}});
    const Placement placement = placement_of(config);
    const std::vector<Parameter> all = all_parameters(config.model, placement);
    const int64_t expert = 3 * 16 * 8, layers = 2;
    for (int rank = 0; rank < 3; ++rank) {
        const World world(config.topology, rank, 3);
        const ArenaLayout layout = arena_layout(all, placement, world);
        const FrozenLayout copies = frozen_layout(all, placement, world);
        const auto bytes = [&](auto... change) {
            Config changed = config;
            (change(changed.federation), ...);
            return evaluation_bytes(changed, world, layout, copies, 1);
        };
        const auto proxy = [](FederationConfig& f) { f.absent = AbsentPolicy::proxy; };
        const int64_t activations = bytes(proxy);
        CHECK(activations > plan_of(config, rank).activations / 2);
        CHECK(activations <=
              Transformer::activation_bytes(
                  config.model,
                  Transformer::batch_shape(config.model, layout, world, config.train.micro_batch,
                                           config.data.seq_len, false, &copies)));
        const int64_t of_copies = 2 * layers * expert * (rank == 0 ? 4 : 2);
        CHECK(bytes() == activations + of_copies);
        CHECK(bytes(proxy, [](FederationConfig& f) { f.refresh = 2; }) == bytes());
        CHECK(bytes(proxy, [](FederationConfig& f) { f.reject_above = 3; }) == bytes());
        CHECK(bytes([](FederationConfig& f) { f.router_steps = 8; }) ==
              bytes() + 4 * layout.size());
    }
}

TEST_CASE("the snapshots of all ranks are a checkpoint") {
    for (const bool proxy : {false, true}) {
        CAPTURE(proxy);
        Config config = tiny_config();
        config.topology = tiny_topology({{2, 2}, {4, 2}, {1, 1}, {1, 1}});
        config.federation.replication = 2;
        if (proxy) config.federation.absent = AbsentPolicy::proxy;
        const auto sum = [&] {
            int64_t bytes = 0;
            for (int rank = 0; rank < config.topology.n_ranks(); ++rank) {
                const FederationTables tables(config, config.federation, rank);
                bytes +=
                    snapshot_bytes(config, config.federation, tables.world, tables.placement,
                                   tables.layout, tables.spans, proxy ? &tables.frozen : nullptr);
            }
            return bytes;
        };
        CHECK(sum() == 0);
        config.checkpoint.async = true;
        CHECK(sum() == 0);  // the only one is that of the end, which waits
        config.checkpoint.every = 10;
        const int64_t all =
            checkpoint_bytes(config, config.federation, {config, config.federation, 0}).total();
        CHECK(sum() == Approx(all).epsilon(0.03));
    }
}

TEST_CASE("bf16 halves activations and adds a copy of the weights") {
    Config config = tiny_config();
    config.topology = tiny_topology({{1, 1}});
    const Placement placement = placement_of(config);
    const World world(config.topology, 0, 1);
    const ArenaLayout layout =
        arena_layout(all_parameters(config.model, placement), placement, world);
    const MemoryPlan f32 = plan_of(config, 0);
    config.train.dtype = ComputeType::bf16;
    const MemoryPlan bf16 = plan_of(config, 0);
    CHECK(f32.rounded == 0);
    CHECK(bf16.rounded == 2 * layout.size());
    CHECK(bf16.weights == f32.weights);
    CHECK(bf16.gradients == f32.gradients);
    CHECK(bf16.activations < 0.65 * f32.activations);
    const BatchShape shape =
        Transformer::batch_shape(config.model, layout, world, config.train.micro_batch,
                                 config.data.seq_len, false, nullptr, DType::bf16);
    CHECK(bf16.activations == Transformer::activation_bytes(config.model, shape));
}

TEST_CASE("the scratch of a step in bf16 is planned as it is held") {
    for (const bool softmax : {false, true}) {
        Config config = softmax ? tiny_softmax_config() : tiny_sigmoid_config();
        config.topology = tiny_topology({{1, 1}});
        config.train.dtype = ComputeType::bf16;
        config.model.vocab_size = softmax ? 512 : 48;  // the output layer, the experts
        const Placement placement = placement_of(config);
        const World world(config.topology, 0, 1);
        const ArenaLayout layout =
            arena_layout(all_parameters(config.model, placement), placement, world);
        CpuBackend backend(1);
        const auto alone = make_self_communicator();
        const BatchShape shape = Transformer::batch_shape(
            config.model, layout, world, config.train.micro_batch, config.data.seq_len,
            config.data.document_mask, nullptr, DType::bf16);
        Transformer model(config.model, config.federation, layout, placement, world, shape, backend,
                          *alone);
        WeightArena weights(layout.size(), DType::bf16, backend);
        weights.change_on_host(
            [&](Tensor values) { fill_initial_values(layout, config.seed, values); });
        Arena memory(backend, 4 * layout.size());
        const Tensor gradients = memory.take(DType::f32, Shape(layout.size()));
        backend.zero(gradients, Queue::compute);
        model.bind(weights.tensors(), gradients);
        const Batch batch = tiny_batch(config, 1, {0, config.train.micro_batch});
        model.train(token_batch(batch), 1.0);
        const double planned = static_cast<double>(plan_of(config, 0).scratch);
        CHECK(static_cast<double>(backend.scratch_bytes()) == Approx(planned).epsilon(0.05));
    }
}
