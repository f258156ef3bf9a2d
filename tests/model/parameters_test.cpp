// The table of parameters, the arenas made from it, and the start values.
#include "model/parameters.h"

#include <catch2/catch.hpp>
#include <numeric>
#include <set>

#include "support/tiny.h"

using namespace fomoe;

namespace {

std::vector<Parameter> table(const Config& config) {
    return all_parameters(config.model, placement_of(config));
}

int64_t elements(const std::vector<Parameter>& parameters) {
    int64_t sum = 0;
    for (const Parameter& p : parameters) sum += p.count();
    return sum;
}

const Parameter& named(const std::vector<Parameter>& parameters, const std::string& name) {
    for (const Parameter& p : parameters)
        if (p.name == name) return p;
    FAIL(name << " is missing");
    throw;
}

std::vector<float> start_values(const Parameter& p, uint64_t seed) {
    std::vector<float> values(p.count());
    initial_values(p, seed, 0, p.count(), values.data());
    return values;
}

// Buckets of at least so many elements are the trained sections cut, and each waits for the last of
// its gradients.
void check_buckets(const ArenaLayout& layout, int n_layers, int ranks, int replicas,
                   int64_t elements) {
    int64_t end = 0;
    for (const ArenaBucket& bucket : layout.buckets) {
        const ArenaSection& section = bucket.experts ? layout.expert : layout.dense;
        const int sharers = bucket.experts ? replicas : ranks;
        CHECK(bucket.begin == end);
        end += bucket.size;
        CHECK(section.begin <= bucket.begin);
        CHECK(end <= section.begin + section.size);
        CHECK(bucket.size % (16 * sharers) == 0);
        if (sharers == 1) CHECK(bucket.size == section.size);
        CHECK(bucket.size > std::min(elements, section.size) - 16 * sharers);
        if (sharers > 1) CHECK(bucket.size < 2 * elements + 16 * sharers);
        int layer = n_layers - 1;
        for (const Parameter& p : layout.parameters)
            if (p.offset < end && bucket.begin < p.offset + p.count() &&
                (p.layer >= 0 || p.name == "model.embed_tokens.weight"))
                layer = std::min(layer, p.layer);
        CHECK(bucket.layer == layer);
    }
    CHECK(end == (layout.trains_experts() ? layout.size() : layout.dense.size));
}

}  // namespace

TEST_CASE("names and counts of parameters are those summed by hand") {
    // D 16, 2 layers, 4 heads of 4, 2 key/value heads, V 48, 8 experts of 8.
    // Attention of a layer: q 256, k 128, v 128, o 256, two norms 32 = 800. Router 128.
    // Swiglu expert 3 * 128 = 384, mlp expert 256.
    Config config = tiny_config();
    CHECK(elements(table(config)) == 2 * 768 + 16 + 2 * (800 + 128 + 8 * 384));
    CHECK(table(config).size() == 3 + 2 * (6 + 1 + 8 * 3));

    SECTION("tied embeddings") {
        config.model.tie_embeddings = true;
        CHECK(elements(table(config)) == 768 + 16 + 2 * (800 + 128 + 8 * 384));
        for (const Parameter& p : table(config)) CHECK(p.name != "lm_head.weight");
    }
    SECTION("mlp experts") {
        config.model.moe.expert = ExpertKind::mlp;
        CHECK(elements(table(config)) == 2 * 768 + 16 + 2 * (800 + 128 + 8 * 256));
        for (const Parameter& p : table(config))
            CHECK(p.name.find("gate_proj") == std::string::npos);
    }
    SECTION("shared experts are one MLP") {
        config.model.moe.n_shared_experts = 3;
        CHECK(elements(table(config)) == 2 * 768 + 16 + 2 * (800 + 128 + (8 + 3) * 384));
        CHECK(table(config).size() == 3 + 2 * (6 + 1 + 3 + 8 * 3));
        const auto all = table(config);
        CHECK(named(all, "model.layers.1.mlp.shared_experts.up_proj.weight").shape ==
              Shape(24, 16));
        CHECK(named(all, "model.layers.1.mlp.shared_experts.down_proj.weight").shape ==
              Shape(16, 24));
    }
    SECTION("a dense first layer has no router") {
        config.model.moe.first_dense_layers = 1;
        config.model.moe.d_dense = 20;
        CHECK(elements(table(config)) == 2 * 768 + 16 + 2 * 800 + 3 * 16 * 20 + 128 + 8 * 384);
        const auto all = table(config);
        CHECK(named(all, "model.layers.0.mlp.gate_proj.weight").shape == Shape(20, 16));
        CHECK(named(all, "model.layers.1.mlp.gate.weight").shape == Shape(8, 16));
        for (const Parameter& p : all) CHECK(p.name != "model.layers.0.mlp.gate.weight");
    }
    SECTION("norms of queries and keys") {
        config.model.qk_norm = QkNorm::head;
        CHECK(elements(table(config)) == 2 * 768 + 16 + 2 * (800 + 8 + 128 + 8 * 384));
        config.model.qk_norm = QkNorm::full;
        CHECK(elements(table(config)) == 2 * 768 + 16 + 2 * (800 + 16 + 8 + 128 + 8 * 384));
    }
    SECTION("the selection bias") {
        config.model.moe.bias_update = 0.1;
        CHECK(elements(table(config)) == 2 * 768 + 16 + 2 * (800 + 128 + 8 + 8 * 384));
        const auto all = table(config);
        const Parameter& bias = named(all, "model.layers.0.mlp.gate.e_score_correction_bias");
        CHECK_FALSE(bias.trained);
        CHECK(bias.follows_counts);
        CHECK_FALSE(bias.decay);
        CHECK(bias.cls == ParamClass::router);
    }
    SECTION("heads of a size of their own") {
        config.model.d_head = 6;
        CHECK(elements(table(config)) ==
              2 * 768 + 16 + 2 * (2 * 24 * 16 + 2 * 12 * 16 + 32 + 128 + 8 * 384));
    }
}

TEST_CASE("the global order is shared, router, experts by owners, layer and id") {
    for (int replication : {1, 2}) {
        Config config = tiny_sigmoid_config();
        config.topology = tiny_topology({{1, 1}, {1, 1}, {1, 1}, {1, 1}});
        config.federation.replication = replication;
        const Placement placement = placement_of(config);
        const auto all = table(config);
        std::set<std::string> names;
        for (size_t i = 0; i < all.size(); ++i) {
            const Parameter& p = all[i];
            INFO(p.name);
            CHECK(names.insert(p.name).second);
            CHECK(p.offset == -1);
            CHECK(p.owners == (p.cls == ParamClass::expert ? placement.owners(p.layer, p.expert)
                                                           : std::vector<int>{0, 1, 2, 3}));
            CHECK((p.expert >= 0) == (p.cls == ParamClass::expert));
            CHECK(p.decay == (p.shape.rank == 2));
            if (i == 0) continue;
            const Parameter& before = all[i - 1];
            CHECK(before.cls <= p.cls);
            if (before.cls == ParamClass::expert)
                CHECK(std::tuple(before.owners, before.layer, before.expert) <=
                      std::tuple(p.owners, p.layer, p.expert));
        }
    }
}

TEST_CASE("a calibration adds a scale to each layer with a router and trains what it is told") {
    for (const Config& config : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        const Placement placement = placement_of(config);
        const auto before = table(config);
        for (CalibratedWeights weights : {CalibratedWeights::router, CalibratedWeights::shared}) {
            auto rows = calibrated_parameters(config.model, placement, weights);
            for (size_t i = 1; i < rows.size(); ++i) CHECK(rows[i - 1].cls <= rows[i].cls);
            for (int l = config.model.moe.first_dense_layers; l < config.model.n_layers; ++l) {
                const Parameter& scale = named(rows, routed_scale_name(l));
                CHECK(scale.shape == Shape(1));
                CHECK(scale.cls == ParamClass::router);
                CHECK(scale.init_value == 1);
                CHECK(scale.trained);
                CHECK_FALSE(scale.decay);
                CHECK(scale.owners == std::vector<int>{0});
            }
            std::erase_if(rows, [](const Parameter& p) {
                return p.layer >= 0 && p.name == routed_scale_name(p.layer);
            });
            REQUIRE(rows.size() == before.size());
            for (size_t i = 0; i < rows.size(); ++i) {
                const Parameter& p = rows[i];
                INFO(p.name);
                CHECK(p.name == before[i].name);
                CHECK_FALSE(p.follows_counts);
                const bool bias = p.name.ends_with("correction_bias");
                const bool norm = p.name.find("norm") != std::string::npos;
                const bool all = weights == CalibratedWeights::shared;
                CHECK(p.trained == (p.cls == ParamClass::router   ? !bias
                                    : p.cls == ParamClass::expert ? false
                                                                  : all || norm));
            }
        }
    }
}

TEST_CASE("the arenas of a group's ranks hold every shared parameter and each resident once") {
    for (uint64_t trial = 0; trial < 60; ++trial) {
        const auto draw = [&](int i, uint64_t n) {
            return static_cast<int>(random_bits(trial, i) % n);
        };
        Config config = draw(0, 2) ? tiny_config() : tiny_softmax_config();
        config.model.moe.n_experts = 12;
        config.model.qk_norm = static_cast<QkNorm>(draw(1, 3));
        config.model.moe.bias_update = draw(2, 2);
        const int n_groups = 1 + draw(3, 4);
        std::vector<std::pair<int, int>> groups;
        for (int g = 0; g < n_groups; ++g) {
            const int expert_parallel = 1 + draw(10 + g, 3);
            groups.push_back({expert_parallel * (1 + draw(20 + g, 3)), expert_parallel});
        }
        config.topology = tiny_topology(groups);
        config.federation.replication = 1 + draw(30, n_groups);
        if (n_groups % config.federation.replication != 0) config.federation.replication = 1;
        const Placement placement = placement_of(config);
        const auto all = table(config);
        INFO("trial " << trial);

        const int n_ranks = config.topology.n_ranks();
        std::map<std::pair<int, std::string>, int> held;  // (group, name) -> ranks
        for (int rank = 0; rank < n_ranks; ++rank) {
            const World world(config.topology, rank, n_ranks);
            const int P = world.own().ranks, EP = world.own().expert_parallel;
            const int64_t bucket_elements = 100 + draw(40, 2000);
            const ArenaLayout layout = arena_layout(all, placement, world, bucket_elements);
            check_buckets(layout, config.model.n_layers, P, P / EP, bucket_elements);
            int64_t end = 0, dense_used = 0, expert_used = 0;
            size_t in_table = 0;
            for (const Parameter& p : layout.parameters) {
                // In the table's order, one behind the other.
                while (in_table < all.size() && all[in_table].name != p.name) ++in_table;
                REQUIRE(in_table < all.size());
                if (p.cls == ParamClass::expert && expert_used == 0) end = layout.dense.size;
                CHECK(p.offset == end);
                end += p.count();
                (p.cls == ParamClass::expert ? expert_used : dense_used) += p.count();
                ++held[{world.group, p.name}];
                CHECK(layout.find(p.name).offset == p.offset);
            }
            CHECK(layout.dense.begin == 0);
            CHECK(layout.dense.used == dense_used);
            CHECK(layout.dense.size % (16 * P) == 0);
            CHECK(layout.dense.size - dense_used < 16 * P);
            CHECK(layout.expert.begin == layout.dense.size);
            CHECK(layout.expert.used == expert_used);
            CHECK(layout.expert.size % (16 * (P / EP)) == 0);
            CHECK(layout.expert.size - expert_used < 16 * (P / EP));
        }
        for (int g = 0; g < n_groups; ++g) {
            const auto [P, EP] = groups[g];
            for (const Parameter& p : all) {
                INFO(p.name << " in group " << g);
                const bool resident =
                    p.cls != ParamClass::expert || placement.slot(p.layer, g, p.expert) >= 0;
                const int holders = !resident ? 0 : p.cls == ParamClass::expert ? P / EP : P;
                const auto found = held.find({g, p.name});
                CHECK((found == held.end() ? 0 : found->second) == holders);
            }
        }
    }
}

TEST_CASE("a parameter that a rank does not hold cannot be found") {
    Config config = tiny_config();
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    const ArenaLayout layout =
        arena_layout(table(config), placement_of(config), World(config.topology, 0, 2));
    CHECK_NOTHROW(layout.find("model.layers.0.mlp.experts.3.up_proj.weight"));
    CHECK_THROWS_AS(layout.find("model.layers.0.mlp.experts.4.up_proj.weight"), Error);
}

TEST_CASE("start values depend on seed, name and element only") {
    Config config = tiny_sigmoid_config();
    const auto all = table(config);
    config.topology = tiny_topology({{2, 2}, {1, 1}});
    const auto placed = table(config);
    for (const Parameter& p : all) {
        INFO(p.name);
        const std::vector<float> whole = start_values(p, 3);
        std::vector<float> pieces(p.count());
        for (int64_t begin = 0, n; begin < p.count(); begin += n) {
            n = std::min<int64_t>(1 + begin % 37, p.count() - begin);
            initial_values(p, 3, begin, n, pieces.data() + begin);
        }
        CHECK(whole == pieces);
        CHECK(whole == start_values(named(placed, p.name), 3));
        if (p.init_std > 0) {
            CHECK(whole != start_values(p, 4));
        } else {
            CHECK(whole == std::vector<float>(p.count(), p.trained ? 1.0f : 0.0f));
        }
    }
    CHECK(start_values(named(all, "model.layers.0.mlp.experts.1.up_proj.weight"), 3) !=
          start_values(named(all, "model.layers.0.mlp.experts.2.up_proj.weight"), 3));
}

TEST_CASE("start values have the configured deviation") {
    Config config = tiny_sigmoid_config();
    config.model.d_model = 128;
    config.model.n_layers = 3;
    config.model.moe.d_expert = 96;
    config.model.init_std = 0.05;
    for (const Parameter& p : table(config)) {
        if (p.shape.rank != 2 || p.count() < 8000) continue;
        INFO(p.name);
        const bool ends_branch = p.name.find("down_proj") != std::string::npos ||
                                 p.name.find("o_proj") != std::string::npos;
        const double expected = ends_branch ? 0.05 / std::sqrt(6.0) : 0.05;
        double sum = 0, squares = 0;
        for (float x : start_values(p, 1)) {
            sum += x;
            squares += double{x} * x;
        }
        const double n = static_cast<double>(p.count());
        CHECK(std::abs(sum / n) < 4.5 * expected / std::sqrt(n));
        CHECK(std::sqrt(squares / n) == Approx(expected).epsilon(4.0 / std::sqrt(2 * n)));
    }
}
