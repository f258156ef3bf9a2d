// Sharded AdamW: against a plain f64 reference, and cut among ranks.
#include "optim/inner_optimizer.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "support/tiny.h"

using namespace fomoe;

namespace {

constexpr int kSteps = 5;
constexpr float kGradScale = 0.5f;

double rate(int64_t step) { return 1e-2 / static_cast<double>(step); }

// Gradients of every size between 1e-6 and 10, some exactly 0.
float gradient_of(const Parameter& p, int64_t step, int64_t element) {
    const uint64_t key = random_key(static_cast<uint64_t>(step), p.name);
    const uint64_t i = static_cast<uint64_t>(element);
    if (random_uniform(key, 2 * i) < 0.1) return 0;
    return random_normal(key, 2 * i) *
           static_cast<float>(std::pow(10.0, 7 * random_uniform(key, 2 * i + 1) - 6));
}

Config optimizer_config() {
    Config config = tiny_sigmoid_config();
    OptimizerConfig& optimizer = config.train.optimizer;
    optimizer.weight_decay = 0.1;
    optimizer.shared = {.lr_scale = 0.5, .weight_decay = -1};
    optimizer.router = {.lr_scale = 2.0, .weight_decay = 0};
    optimizer.expert = {.lr_scale = 1.5, .weight_decay = 0.3};
    return config;
}

struct Outcome {
    Values weights, m, v;
    std::map<std::string, std::vector<int>> writers;  // ranks that step each element
};

bool restarts(const Parameter& p) { return p.name.size() % 2 == 0; }

// kSteps steps of one group, each rank on its slices; what the ranks hold afterwards, put together.
// Gradients outside the own slices are NaN: nobody may look there.
Outcome step_on_ranks(Config config, int ranks, int expert_parallel, int64_t restart_after = 0,
                      int64_t bucket_elements = 300) {
    config.topology = tiny_topology({{ranks, expert_parallel}});
    const Placement placement = placement_of(config);
    const auto all = all_parameters(config.model, placement);
    const auto backend = make_cpu_backend(1);
    Outcome outcome;
    for (const Parameter& p : all) {
        std::vector<float> start(p.count());
        initial_values(p, config.seed, 0, p.count(), start.data());
        outcome.weights[p.name] = start;
        outcome.m[p.name] = outcome.v[p.name] = std::vector<float>(p.count());
        outcome.writers[p.name].resize(p.count());
    }
    for (int rank = 0; rank < ranks; ++rank) {
        const World world(config.topology, rank, ranks);
        const ArenaLayout layout = arena_layout(all, placement, world, bucket_elements);
        InnerOptimizer optimizer(config.train.optimizer, layout, world, *backend);
        std::vector<float> weights(layout.size()), gradients(layout.size());
        const Tensor w = view(weights.data(), Shape(layout.size()));
        fill_initial_values(layout, config.seed, w);
        const auto each_own = [&](auto body) {
            for (const InnerOptimizer::Slice& slice : optimizer.slices())
                for (const Parameter& p : layout.parameters)
                    for (int64_t i = 0; i < p.count(); ++i)
                        if (slice.begin <= p.offset + i && p.offset + i < slice.begin + slice.size)
                            body(p, i, slice);
        };
        for (int64_t step = 1; step <= kSteps; ++step) {
            std::fill(gradients.begin(), gradients.end(), std::nanf(""));
            each_own([&](const Parameter& p, int64_t i, const auto&) {
                gradients[p.offset + i] = gradient_of(p, step, i);
            });
            optimizer.step(w, view(gradients.data(), Shape(layout.size())),
                           view(&kGradScale, Shape(1)), rate(step), step);
            if (step != restart_after) continue;
            for (const Parameter& p : layout.parameters)
                if (restarts(p)) optimizer.restart({p.offset, p.offset + p.count()}, step);
        }
        each_own([&](const Parameter& p, int64_t i, const InnerOptimizer::Slice& slice) {
            outcome.weights[p.name][i] = weights[p.offset + i];
            outcome.m[p.name][i] = slice.m.template as<float>()[p.offset + i - slice.begin];
            outcome.v[p.name][i] = slice.v.template as<float>()[p.offset + i - slice.begin];
            ++outcome.writers[p.name][i];
        });
    }
    return outcome;
}

// AdamW as the paper has it (arXiv 1711.05101), in f64.
double reference(const OptimizerConfig& config, const Parameter& p, int64_t element, double weight,
                 int64_t restart_after = 0) {
    const ClassOptimizerConfig& cls = p.cls == ParamClass::shared   ? config.shared
                                      : p.cls == ParamClass::router ? config.router
                                                                    : config.expert;
    const double wanted = cls.weight_decay < 0 ? config.weight_decay : cls.weight_decay;
    const double decay = p.shape.rank == 2 ? wanted : 0.0;
    double m = 0, v = 0;
    for (int64_t step = 1; step <= kSteps; ++step) {
        const double g = double{gradient_of(p, step, element)} * kGradScale;
        m = config.beta1 * m + (1 - config.beta1) * g;
        v = config.beta2 * v + (1 - config.beta2) * g * g;
        const int64_t age = step - (step > restart_after ? restart_after : 0);
        const double m_hat = m / (1 - std::pow(config.beta1, age));
        const double v_hat = v / (1 - std::pow(config.beta2, age));
        weight -=
            rate(step) * cls.lr_scale * (m_hat / (std::sqrt(v_hat) + config.eps) + decay * weight);
        if (step == restart_after) m = v = 0;
    }
    return weight;
}

}  // namespace

TEST_CASE("one rank steps as AdamW in f64 does, each class with its own rate and decay") {
    const Config config = optimizer_config();
    const Outcome outcome = step_on_ranks(config, 1, 1);
    for (const Parameter& p : all_parameters(config.model, placement_of(config))) {
        INFO(p.name);
        std::vector<float> start(p.count());
        initial_values(p, config.seed, 0, p.count(), start.data());
        if (!p.trained) {
            CHECK(outcome.weights.at(p.name) == start);
            continue;
        }
        double error = 0;
        for (int64_t i = 0; i < p.count(); ++i)
            error = std::max(error, std::abs(outcome.weights.at(p.name)[i] -
                                             reference(config.train.optimizer, p, i, start[i])));
        CHECK(error < 2e-6);  // of steps of 1e-2 on weights up to 1: a few roundings
    }
}

TEST_CASE("the ranks of a group step every element once, to the bits of one rank") {
    const Config config = optimizer_config();
    const Outcome alone = step_on_ranks(config, 1, 1);
    for (const auto& [ranks, expert_parallel] :
         std::vector<std::pair<int, int>>{{2, 1}, {2, 2}, {3, 3}, {4, 1}, {4, 2}, {4, 4}, {6, 2}}) {
        INFO(ranks << " ranks, expert parallel " << expert_parallel);
        for (int64_t bucket_elements : {int64_t{300}, kBucketElements}) {
            const Outcome cut = step_on_ranks(config, ranks, expert_parallel, 0, bucket_elements);
            for (const auto& [name, writers] : cut.writers) {
                INFO(name);
                CHECK(writers == std::vector<int>(writers.size(), 1));
                CHECK(cut.weights.at(name) == alone.weights.at(name));
                CHECK(cut.m.at(name) == alone.m.at(name));
                CHECK(cut.v.at(name) == alone.v.at(name));
            }
        }
    }
}

TEST_CASE("a parameter that restarts has new moments and a new correction, on any ranks") {
    const Config config = optimizer_config();
    const Outcome kept = step_on_ranks(config, 1, 1);
    const Outcome alone = step_on_ranks(config, 1, 1, 2);
    int restarted = 0;
    for (const Parameter& p : all_parameters(config.model, placement_of(config))) {
        INFO(p.name);
        if (!restarts(p)) {
            CHECK(alone.weights.at(p.name) == kept.weights.at(p.name));
            CHECK(alone.m.at(p.name) == kept.m.at(p.name));
            continue;
        }
        if (!p.trained) continue;
        ++restarted;
        CHECK(alone.v.at(p.name) != kept.v.at(p.name));
        std::vector<float> start(p.count());
        initial_values(p, config.seed, 0, p.count(), start.data());
        double error = 0;
        for (int64_t i = 0; i < p.count(); ++i)
            error = std::max(error, std::abs(alone.weights.at(p.name)[i] -
                                             reference(config.train.optimizer, p, i, start[i], 2)));
        CHECK(error < 2e-6);
    }
    CHECK(restarted > 4);
    for (const auto& [ranks, expert_parallel] :
         std::vector<std::pair<int, int>>{{2, 2}, {3, 3}, {4, 2}}) {
        INFO(ranks << " ranks, expert parallel " << expert_parallel);
        const Outcome cut = step_on_ranks(config, ranks, expert_parallel, 2);
        for (const auto& [name, weights] : alone.weights) {
            INFO(name);
            CHECK(cut.weights.at(name) == weights);
            CHECK(cut.m.at(name) == alone.m.at(name));
            CHECK(cut.v.at(name) == alone.v.at(name));
        }
    }
}

TEST_CASE("the moments of a group take the memory of one rank, spread") {
    Config config = optimizer_config();
    const auto bytes = [&](int ranks, int expert_parallel, int64_t bucket_elements) {
        config.topology = tiny_topology({{ranks, expert_parallel}});
        const Placement placement = placement_of(config);
        const World world(config.topology, 0, ranks);
        const auto backend = make_cpu_backend(1);
        const ArenaLayout layout = arena_layout(all_parameters(config.model, placement), placement,
                                                world, bucket_elements);
        const InnerOptimizer optimizer(config.train.optimizer, layout, world, *backend);
        CHECK(optimizer.slices().size() == layout.buckets.size());
        if (ranks > 1 && bucket_elements < layout.dense.size) CHECK(optimizer.slices().size() > 6);
        return optimizer.bytes();
    };
    const int64_t slack = 4 * Arena::kAlign;
    for (int64_t bucket_elements : {int64_t{300}, kBucketElements}) {
        const int64_t alone = bytes(1, 1, bucket_elements);
        CHECK(bytes(2, 1, bucket_elements) <= alone / 2 + slack);
        CHECK(bytes(4, 4, bucket_elements) <= alone / 4 + slack);
        CHECK(bytes(4, 2, bucket_elements) <= alone / 4 + slack);
    }
}

TEST_CASE("experts that are not trained have no moments") {
    Config config = optimizer_config();
    config.topology = tiny_topology({{2, 1}});
    const Placement placement = placement_of(config);
    const World world(config.topology, 1, 2);
    const auto backend = make_cpu_backend(1);
    const ArenaLayout layout =
        arena_layout(calibrated_parameters(config.model, placement, CalibratedWeights::shared),
                     placement, world);
    const InnerOptimizer optimizer(config.train.optimizer, layout, world, *backend);
    CHECK(layout.expert.size > 0);
    CHECK(optimizer.slices()[0].size == layout.dense.size / 2);
    CHECK(optimizer.slices().size() == 1);
    CHECK(optimizer.bytes() <= 8 * layout.dense.size / 2 + 4 * Arena::kAlign);
}
