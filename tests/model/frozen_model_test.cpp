// A model whose absent experts are frozen copies against the model that holds them all.
#include <catch2/catch.hpp>
#include <mutex>

#include "support/model_rig.h"

using namespace fomoe;

namespace {

constexpr int kSequences = 4;

// What the first group's ranks compute together of one step.
struct Computed {
    double loss = 0, balance = 0, z = 0, affinity = 0;
    std::vector<float> load;
    Values gradients;
};

// Weights by name: rounded to bf16 where the first group of `config` has a frozen copy.
Values rounded_weights(const Config& config) {
    const Placement placement = placement_of(config);
    Values weights;
    for (const Parameter& p : all_parameters(config.model, placement)) {
        std::vector<float>& values = weights[p.name];
        values.resize(p.count());
        initial_values(p, config.seed, 0, p.count(), values.data());
        if (p.cls == ParamClass::expert && placement.slot(p.layer, 0, p.expert) < 0)
            for (float& x : values) x = to_f32(to_bf16(x));
    }
    return weights;
}

// The ranks of the first group, all in one EP communicator.
Computed compute(const Config& config, const Values& weights, bool copies) {
    const Placement placement = placement_of(config);
    const auto all = all_parameters(config.model, placement);
    const int P = config.topology.groups[0].ranks;
    Computed sum;
    std::mutex mutex;
    run_ranks(P, [&](Communicator& ranks) {
        const World world(config.topology, ranks.rank(), config.topology.n_ranks());
        const ArenaLayout layout = arena_layout(all, placement, world);
        const FrozenLayout frozen = frozen_layout(all, placement, world);
        const FrozenLayout* given = copies ? &frozen : nullptr;
        const auto backend = make_cpu_backend(1);
        Transformer model(
            config.model, config.federation, layout, placement, world,
            Transformer::batch_shape(config.model, layout, world, kSequences / P,
                                     config.data.seq_len, config.data.document_mask, given),
            *backend, ranks, given);

        Arena memory(*backend, 8 * layout.size() + 2 * frozen.size + 3 * Arena::kAlign);
        const Tensor arena = memory.take(DType::f32, Shape(layout.size()));
        const Tensor gradients = memory.take(DType::f32, Shape(layout.size()));
        const Tensor copied = memory.take(DType::bf16, Shape(frozen.size));
        backend->zero(arena);
        backend->zero(gradients);
        for (const Parameter& p : layout.parameters)
            std::ranges::copy(weights.at(p.name), arena.as<float>() + p.offset);
        for (const Parameter& p : frozen.parameters)
            std::ranges::transform(weights.at(p.name), copied.as<bf16>() + p.offset, to_bf16);
        model.bind(arena, gradients, copies ? copied : Tensor{});

        const Batch batch = tiny_batch(config, 5, cut(kSequences, P, ranks.rank()));
        const double scale = 1.0 / static_cast<double>(batch.group_valid_tokens);
        model.train(token_batch(batch), scale);
        const Transformer::Totals totals = model.totals();
        std::lock_guard lock(mutex);
        sum.loss += scale * totals.loss;
        sum.balance += totals.balance;
        sum.z += totals.z;
        sum.affinity += totals.affinity;
        sum.load.resize(totals.load.size());
        for (size_t i = 0; i < totals.load.size(); ++i) sum.load[i] += totals.load[i];
        for (const Parameter& p : layout.parameters) {
            std::vector<float>& to = sum.gradients[p.name];
            to.resize(p.count());
            for (int64_t i = 0; i < p.count(); ++i) to[i] += gradients.as<float>()[p.offset + i];
        }
    });
    return sum;
}

// A group of `ranks` whose EP is that, and another one.
Config beside_another(Config config, int ranks) {
    config.train.batch = kSequences;
    config.model.init_std = 0.2;
    config.topology = tiny_topology({{ranks, ranks}, {1, 1}});
    return config;
}

Config with_residents(Config config, std::vector<int> residents) {
    config.federation.placement = PlacementKind::explicit_lists;
    std::vector<int> others;
    for (int e = 0; e < config.model.moe.n_experts; ++e)
        if (std::ranges::count(residents, e) == 0) others.push_back(e);
    config.topology.experts = {{"g0", residents}, {"g1", others}};
    return config;
}

// The same model with every expert resident.
Config whole(Config config) {
    config.topology = tiny_topology({{1, 1}});
    config.federation.placement = PlacementKind::blocks;
    return config;
}

void check_same_model(const Config& config) {
    const Values weights = rounded_weights(config);
    const Computed all = compute(whole(config), weights, false);
    const Computed some = compute(config, weights, true);
    CHECK(some.loss == Approx(all.loss).epsilon(1e-6));
    CHECK(some.balance == Approx(all.balance).epsilon(1e-6));
    CHECK(some.z == Approx(all.z).epsilon(1e-6));
    CHECK(some.affinity == 0);
    CHECK(some.load == all.load);
    // Without the copies it is another model.
    if (config.federation.absent == AbsentPolicy::skip)
        CHECK(compute(config, weights, false).loss != Approx(all.loss).epsilon(1e-6));

    const Placement placement = placement_of(config);
    float served = 0;
    size_t held = 0;
    for (const Parameter& p : all_parameters(config.model, placement)) {
        INFO(p.name);
        const bool frozen = p.cls == ParamClass::expert && placement.slot(p.layer, 0, p.expert) < 0;
        CHECK(some.gradients.count(p.name) == !frozen);
        if (frozen) served += some.load[p.layer * config.model.moe.n_experts + p.expert];
        if (frozen) continue;
        ++held;
        CHECK(nmse({{p.name, some.gradients.at(p.name)}}, {{p.name, all.gradients.at(p.name)}}) <=
              1e-9);
    }
    CHECK(served > 0);
    CHECK(some.gradients.size() == held);
}

}  // namespace

TEST_CASE("frozen copies serve as residents with their values do, for any expert parallelism") {
    for (const Config& base : {tiny_sigmoid_config(), tiny_softmax_config()})
        for (int ranks : {1, 2, 4}) {
            INFO(ranks << " ranks");
            const Config blocks = beside_another(base, ranks);
            check_same_model(blocks);
            Config rotated = blocks;
            rotated.federation.placement = PlacementKind::rotate;
            check_same_model(rotated);
            check_same_model(with_residents(blocks, {1, 4, 5}));
            // Shards without a resident, and without a copy.
            check_same_model(with_residents(blocks, {6}));
            check_same_model(with_residents(blocks, {0, 1, 2, 4, 5, 6, 7}));
        }
}

TEST_CASE("with frozen copies no choice is absent under any policy") {
    for (AbsentPolicy absent : {AbsentPolicy::renormalize, AbsentPolicy::reroute})
        for (int ranks : {1, 2}) {
            Config config = beside_another(tiny_sigmoid_config(), ranks);
            config.federation.absent = absent;
            config.federation.affinity_loss = 0.1;
            check_same_model(config);
            check_same_model(with_residents(config, {2}));
        }
}

TEST_CASE("frozen copies for a group that lacks nothing change no bit") {
    Config config = beside_another(tiny_sigmoid_config(), 2);
    config.federation.replication = 2;
    const Values weights = rounded_weights(config);
    const Computed with = compute(config, weights, true), without = compute(config, weights, false);
    CHECK(with.loss == without.loss);
    CHECK(with.gradients == without.gradients);
}

TEST_CASE("copies of another size than the layout's are refused") {
    Rig rig(beside_another(tiny_sigmoid_config(), 1), kSequences, true);
    CHECK_THROWS_AS(rig.model().bind(rig.weights(), {}), Error);
    Rig without(beside_another(tiny_sigmoid_config(), 1));
    std::vector<bf16> copies(8);
    CHECK_THROWS_AS(without.model().bind(without.weights(), {}, view(copies.data(), Shape(8))),
                    Error);
}
