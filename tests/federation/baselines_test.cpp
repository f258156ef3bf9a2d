// The bytes of other ways of training, and the arithmetic of published figures.
#include "federation/baselines.h"

#include <catch2/catch.hpp>

#include "federation/tiny_federation.h"

using namespace fomoe;

namespace {

struct Shapes {
    ModelConfig model;
    std::vector<Parameter> all;
    int groups;

    double expert_share() const {
        double experts = 0, values = 0;
        for (const Parameter& p : all) {
            values += p.count();
            if (p.cls == ParamClass::expert) experts += p.count();
        }
        return experts / values;
    }
    // Full replicas over this placement.
    double ratio(Counting counting) const {
        return double(full_exchange_bytes(all, groups, counting)) /
               double(exchange_bytes(all, counting));
    }
};

Shapes shapes(const ModelConfig& model, int groups, int replication) {
    TopologyConfig topology;
    topology.groups.clear();
    for (int g = 0; g < groups; ++g) topology.groups.push_back({.name = concat("g", g)});
    FederationConfig federation;
    federation.replication = replication;
    return {model, all_parameters(model, {federation, topology, model.moe.n_experts}), groups};
}

ModelConfig olmoe() {
    ModelConfig m{.d_model = 2048, .n_layers = 16, .n_heads = 16, .n_kv_heads = 16};
    m.vocab_size = 50304;
    m.qk_norm = QkNorm::full;
    m.moe.n_experts = 64;
    m.moe.d_expert = 1024;
    return m;
}

ModelConfig qwen3(int d_model, int layers, int heads, int d_expert) {
    ModelConfig m{.d_model = d_model, .n_layers = layers, .n_heads = heads, .n_kv_heads = 4};
    m.d_head = 128;
    m.vocab_size = 151936;
    m.qk_norm = QkNorm::head;
    m.moe.n_experts = 128;
    m.moe.d_expert = d_expert;
    return m;
}

// A model whose experts are this share of it, to a thousandth: the vocabulary makes up the rest.
ModelConfig with_expert_share(double share) {
    ModelConfig m{.d_model = 256, .n_layers = 4};
    m.moe.n_experts = 16;
    m.moe.d_expert = 512;
    m.vocab_size = 64;
    while (shapes(m, 1, 1).expert_share() > share) m.vocab_size += 8;
    return m;
}

}  // namespace

TEST_CASE("a baseline of full replicas is all values between full replicas, without hashes") {
    Config config;
    const TinyConfig tiny = tiny_config({{1, 1}, {2, 1}, {1, 1}}, 3);
    config.topology = tiny.topology;
    config.federation = tiny.federation;
    config.federation.local_steps = 4;
    config.train.steps = 11;
    const std::vector<Parameter> all = tiny.parameters();
    int64_t full = 0;
    for (ParamClass cls : {ParamClass::shared, ParamClass::router, ParamClass::expert})
        full += value_bytes(tiny, cls);
    CHECK(exchange_bytes(all, Counting::sent) == full);
    CHECK(full_exchange_bytes(all, 3, Counting::sent) == full);

    // A placement changes nothing about it; the last step of the run exchanges out of turn.
    const std::vector<Parameter> parts = tiny_config({{1, 1}, {2, 1}, {1, 1}}, 1).parameters();
    CHECK(exchange_bytes(parts, Counting::sent) < full);
    const std::vector<std::pair<int64_t, int64_t>> rounds{{0, 0}, {3, 0},  {4, 1},
                                                          {8, 2}, {10, 2}, {11, 3}};
    for (const auto& [step, n] : rounds) {
        const BaselineBytes bytes = baseline_bytes(config, parts, step);
        CHECK(bytes.data_parallel == step * full);
        CHECK(bytes.full_replicas == n * full);
    }
    config.train.steps = 12;
    CHECK(baseline_bytes(config, parts, 12).full_replicas == 3 * full);
    // The gradients of a trillion parameters, over a long run, are more than an int64_t counts.
    config.train.steps = int64_t{1} << 62;
    CHECK(baseline_bytes(config, parts, config.train.steps).data_parallel > 1e19);
    config.train.steps = 12;
    config.topology.groups.resize(1);
    CHECK(baseline_bytes(config, parts, 12).data_parallel == 0);
}

TEST_CASE("half of the experts in each of two or four groups saves 1.42x, 45.44x with 32 steps") {
    // The paper's models of 3.64B and 608M parameters have these shares of experts.
    const Shapes large = shapes(with_expert_share(0.5924), 4, 2);
    REQUIRE(large.expert_share() == Approx(0.5924).margin(1e-3));
    CHECK(large.ratio(Counting::payload) == Approx(1.42).margin(2e-3));
    CHECK(32 * large.ratio(Counting::payload) == Approx(45.44).margin(0.07));
    CHECK(shapes(large.model, 2, 1).ratio(Counting::payload) ==
          Approx(large.ratio(Counting::payload)));

    const Shapes small = shapes(with_expert_share(0.4429), 4, 2);
    REQUIRE(small.expert_share() == Approx(0.4429).margin(1e-3));
    CHECK(small.ratio(Counting::sent) == Approx(1.419).margin(2e-3));
}

TEST_CASE("eight groups of published models save what their shapes say") {
    struct Row {
        ModelConfig model;
        double experts, share, payload1, payload2, sent2, payload4;
    };
    const std::vector<Row> rows{
        {olmoe(), 6.44e9, 0.931, 5.39, 3.31, 4.95, 1.87},
        // Of 30.53B; from a total rounded to 30.5B they would be 5.94, 3.48, 5.40 and 1.91.
        {qwen3(2048, 48, 32, 768), 28.99e9, 0.9495, 5.91, 3.47, 5.37, 1.90},
        {qwen3(4096, 94, 64, 1536), 227.10e9, 0.966, 6.46, 3.63, 5.81, 1.93},
    };
    for (const Row& row : rows) {
        const Shapes one = shapes(row.model, 8, 1), two = shapes(row.model, 8, 2);
        CAPTURE(row.share);
        CHECK(one.expert_share() == Approx(row.share).margin(6e-4));
        double experts = 0;
        for (const Parameter& p : one.all)
            if (p.cls == ParamClass::expert) experts += p.count();
        CHECK(experts == Approx(row.experts).epsilon(1e-3));
        CHECK(one.ratio(Counting::payload) == Approx(row.payload1).margin(0.008));
        CHECK(two.ratio(Counting::payload) == Approx(row.payload2).margin(0.008));
        CHECK(two.ratio(Counting::sent) == Approx(row.sent2).margin(0.008));
        CHECK(shapes(row.model, 8, 4).ratio(Counting::payload) ==
              Approx(row.payload4).margin(0.008));
    }
}
