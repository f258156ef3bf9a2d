// The whole model: its gradients by finite differences, and what its outputs may depend on.
#include "model/transformer.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <optional>

#include "support/model_rig.h"

using namespace fomoe;

namespace {

// The slope of the loss in one direction within a parameter, from its gradient and measured.
struct Slope {
    double given, measured, noise;
    double bound(double slope) const { return 5e-3 * std::abs(slope) + noise; }
    bool agrees(double slope) const { return std::abs(measured - slope) <= bound(slope); }
};

// A loss near 4 that is the mean of some 70 token losses in f32 has errors of this size.
constexpr double kLossNoise = 3e-7;

// Central differences from weights at the distance `step`; no value where a token changes experts.
std::optional<double> slope(Rig& rig, const Parameter& p, const std::vector<double>& direction,
                            double step, const std::vector<float>& load) {
    const std::vector<float> old(rig.weight(p), rig.weight(p) + p.count());
    // As f32 sees it, the way between the points is not quite `direction`.
    const auto at = [&](double sign) {
        for (int64_t i = 0; i < p.count(); ++i)
            rig.weight(p)[i] = static_cast<float>(old[i] + sign * step * direction[i]);
        return rig.evaluate();
    };
    const Rig::Evaluation up = at(1), down = at(-1);
    std::copy(old.begin(), old.end(), rig.weight(p));
    if (up.load != load || down.load != load) return {};
    return (up.loss - down.loss) / (2 * step);
}

// Large weights, so that every term matters, and tokens for every expert.
Config differentiable(Config config) {
    config.model.init_std = 0.3;
    config.model.moe.n_experts = 6;
    config.data.seq_len = 20;
    return config;
}

// Two directions in every parameter: random, each with a share along the gradient, so that the
// slope is not lost in rounding errors.
void check_gradients(Rig& rig) {
    const std::vector<float> load = rig.evaluate().load;
    std::map<std::string, std::vector<double>> gradients;
    for (const Parameter& p : rig.layout().parameters) gradients[p.name] = rig.gradient(p);

    double worst = 0;
    std::string worst_name;
    int flips = 0;
    for (const Parameter& p : rig.layout().parameters) {
        const std::vector<double>& g = gradients[p.name];
        INFO(p.name);
        if (!p.trained) {
            CHECK(norm(g) == 0);
            continue;
        }
        REQUIRE(norm(g) > 0);
        double length = 0;
        for (int64_t i = 0; i < p.count(); ++i)
            length += double{rig.weight(p)[i]} * rig.weight(p)[i];
        length = std::sqrt(length);
        for (uint64_t seed : {1, 2}) {
            std::vector<double> direction(p.count());
            for (size_t i = 0; i < g.size(); ++i)
                direction[i] = random_normal(random_key(seed, p.name), i);
            const double own = norm(direction);
            for (size_t i = 0; i < g.size(); ++i)
                direction[i] = p.count() == 1 ? 1 : direction[i] / own + g[i] / norm(g);
            const double whole = norm(direction);
            double given = 0;
            for (size_t i = 0; i < g.size(); ++i) given += (direction[i] /= whole) * g[i];

            std::optional<double> measured;
            double step = 0.003 * length;
            for (int attempt = 0; attempt < 5 && !measured; ++attempt) {
                if (attempt > 0) step *= 0.4;
                measured = slope(rig, p, direction, step, load);
                flips += !measured;
            }
            REQUIRE(measured);
            const Slope s{given, *measured, kLossNoise / step};
            INFO("slope " << s.given << ", measured " << s.measured << " +- " << s.noise);
            CHECK(s.agrees(s.given));
            // A gradient that is off by one part in twenty would be seen.
            CHECK_FALSE(s.agrees(1.05 * s.given));
            CHECK_FALSE(s.agrees(0.95 * s.given));
            const double error = std::abs(s.measured / s.given - 1);
            if (error > worst) {
                worst = error;
                worst_name = p.name;
            }
        }
    }
    INFO("largest relative error " << worst << " in " << worst_name << "; " << flips
                                   << " steps in which tokens changed experts");
    CHECK(worst < 1e-2);
}

}  // namespace

TEST_CASE("finite differences: sigmoid router, shared experts, norm of each head, documents") {
    for (AuxScope scope : {AuxScope::sequence, AuxScope::group}) {
        Config config = differentiable(tiny_sigmoid_config());
        config.model.moe.aux_scope = scope;
        Rig rig(config);
        rig.disturb(0.2f);
        if (scope == AuxScope::group) rig.set_fractions();
        check_gradients(rig);
    }
}

TEST_CASE("finite differences: norm of all heads together, scores that are not normalised") {
    Config config = differentiable(tiny_sigmoid_config());
    config.model.qk_norm = QkNorm::full;
    config.model.moe.normalize_top_k = false;
    config.model.moe.n_shared_experts = 2;
    Rig rig(config);
    rig.disturb(0.2f);
    rig.set_fractions();
    check_gradients(rig);
}

TEST_CASE("finite differences: dense layer, gelu experts, tied embeddings, absent experts") {
    for (bool normalize : {false, true}) {
        Config config = differentiable(tiny_softmax_config());
        config.model.moe.normalize_top_k = normalize;
        config.model.moe.aux_scope = AuxScope::sequence;
        config.topology = tiny_topology({{1, 1}, {1, 1}});
        Rig rig(config);
        rig.disturb(0.2f);
        const std::vector<float> load = rig.evaluate().load;
        float absent = 0;
        for (int e = 3; e < 6; ++e) absent += load[6 + e];
        REQUIRE(absent > 0);
        check_gradients(rig);
    }
}

TEST_CASE("finite differences: residents that differ by layer or lie apart in the arena") {
    for (const Config& config : otherwise_placed(differentiable(tiny_sigmoid_config()))) {
        Rig rig(config);
        rig.disturb(0.2f);
        check_gradients(rig);
    }
}

TEST_CASE("finite differences: absent choices renormalised or rerouted, and the affinity loss") {
    for (AbsentPolicy absent : {AbsentPolicy::renormalize, AbsentPolicy::reroute})
        for (const Config& base : {tiny_sigmoid_config(), tiny_softmax_config()}) {
            Config config = differentiable(base);
            config.topology = tiny_topology({{1, 1}, {1, 1}});
            config.federation.absent = absent;
            config.federation.max_renormalize = 1.8;
            config.federation.affinity_loss = 0.2;
            Rig rig(config);
            rig.disturb(0.2f);
            rig.set_fractions();
            const std::vector<float> load = rig.evaluate().load;
            float to_absent = 0;
            for (int e = 3; e < 6; ++e) to_absent += load[6 + e];
            CHECK((to_absent > 0) == (absent == AbsentPolicy::renormalize));
            CHECK(rig.model().totals().affinity > 1);
            check_gradients(rig);
        }
}

TEST_CASE("finite differences: frozen copies serve the absent choices") {
    Config sigmoid = differentiable(tiny_sigmoid_config());
    std::vector<Config> configs = otherwise_placed(sigmoid);
    configs.push_back(differentiable(tiny_softmax_config()));
    configs.back().topology = tiny_topology({{1, 1}, {1, 1}});
    for (const Config& config : configs) {
        Rig rig(config, 4, true);
        rig.disturb(0.2f);
        rig.set_fractions();
        const std::vector<float> load = rig.evaluate().load;
        const Placement placement = placement_of(config);
        float served = 0;
        for (int e = 0; e < 6; ++e)
            if (placement.slot(1, 0, e) < 0) served += load[6 + e];
        REQUIRE(served > 0);
        check_gradients(rig);
    }
}

TEST_CASE("finite differences: a scale of each layer, and no gradients of experts") {
    for (const Config& base : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        Config config = differentiable(base);
        config.topology = tiny_topology({{1, 1}, {1, 1}});
        Rig rig(config, 4, true, CalibratedWeights::shared);
        rig.disturb(0.2f);
        rig.set_fractions();
        int scales = 0, experts = 0;
        for (const Parameter& p : rig.layout().parameters) {
            scales += p.name == routed_scale_name(p.layer) && p.trained;
            experts += p.cls == ParamClass::expert && p.trained;
        }
        CHECK(scales == config.model.n_layers - config.model.moe.first_dense_layers);
        CHECK(experts == 0);
        check_gradients(rig);
    }
}

TEST_CASE("a scale of the gates is one of down_proj, and without experts' gradients others stay") {
    for (const Config& config : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        Rig plain(config), scaled(config, 4, false, CalibratedWeights::router);
        CHECK(plain.token_losses() == scaled.token_losses());
        CHECK(plain.evaluate().loss == scaled.evaluate().loss);
        for (const Parameter& p : plain.layout().parameters) {
            INFO(p.name);
            const Parameter& q = scaled.layout().find(p.name);
            if (p.cls != ParamClass::expert) CHECK(plain.gradient(p) == scaled.gradient(q));
        }

        const auto scale_of = [](int layer) { return 0.7f + 0.9f * static_cast<float>(layer); };
        for (const Parameter& p : scaled.layout().parameters)
            if (p.name == routed_scale_name(p.layer)) *scaled.weight(p) = scale_of(p.layer);
        for (const Parameter& p : plain.layout().parameters)
            if (p.cls == ParamClass::expert && p.name.ends_with("down_proj.weight"))
                for (int64_t i = 0; i < p.count(); ++i) plain.weight(p)[i] *= scale_of(p.layer);
        const std::vector<float> a = plain.token_losses(), b = scaled.token_losses();
        for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).epsilon(1e-5));
    }
}

TEST_CASE("evaluation has the losses of training, and the logits have those of evaluation") {
    for (const Config& config : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        Rig rig(config);
        const std::vector<float> losses = rig.token_losses();
        std::vector<float> again(losses.size());
        const double sum = rig.model().evaluate(token_batch(rig.batch()), again);
        rig.model().train(token_batch(rig.batch()), 1.0);
        CHECK(rig.model().totals().loss == sum);
        std::vector<float> logits(config.model.vocab_size);
        for (size_t row = 0; row < losses.size(); row += 5) {
            const int target = rig.batch().targets[row];
            if (target < 0) {
                CHECK(losses[row] == 0);
                continue;
            }
            rig.model().logits(token_batch(rig.batch()), {int64_t(row), int64_t(row) + 1}, logits);
            double sum = 0;
            for (float z : logits) sum += std::exp(double{z});
            CHECK(losses[row] == Approx(std::log(sum) - logits[target]).epsilon(1e-5));
        }
    }
}

TEST_CASE("a token is seen by later tokens of its document only") {
    Rig rig(tiny_sigmoid_config());
    const std::vector<float> before = rig.token_losses();
    const int64_t T = rig.shape().seq_len;
    Batch& batch = rig.batch();
    for (int64_t changed : {int64_t{0}, T / 2, T - 1}) {
        const int64_t n = T + changed;  // in the second sequence
        int32_t& token = batch.tokens[n];
        const int32_t old = token;
        token = (token + 1) % rig.config().model.vocab_size;
        const std::vector<float> after = rig.token_losses();
        token = old;
        const int32_t end = [&] {
            for (int64_t t = changed; t < T; ++t)
                if (batch.begin[T + t] != batch.begin[n]) return static_cast<int32_t>(t);
            return static_cast<int32_t>(T);
        }();
        for (int64_t i = 0; i < rig.shape().tokens(); ++i) {
            INFO("token " << n << " changed, its document ends at " << end << ", loss " << i);
            const bool sees = i >= n && i < T + end && batch.targets[i] >= 0;
            CHECK((after[i] != before[i]) == sees);
        }
    }
}

TEST_CASE("a narrowed set of residents computes what the group that holds only these does") {
    Config blocks = tiny_sigmoid_config();
    blocks.topology = tiny_topology({{1, 1}, {1, 1}});
    std::vector<Config> configs = otherwise_placed(blocks);
    configs.push_back(blocks);
    for (const Config& config : configs) {
        Rig all(tiny_sigmoid_config()), half(config);
        CHECK(all.token_losses() != half.token_losses());
        std::vector<int32_t> slots(16, -1);
        for (int l : {0, 1})
            for (int e : placement_of(config).residents(l, 0)) slots[l * 8 + e] = e;
        all.model().set_residents(slots);
        CHECK(all.token_losses() == half.token_losses());
        CHECK(all.evaluate().loss == half.evaluate().loss);
        for (const Parameter& p : half.layout().parameters) {
            INFO(p.name);
            CHECK(half.gradient(p) == all.gradient(all.layout().find(p.name)));
        }
    }
}

TEST_CASE("a narrowed set of residents follows the policy of the group that holds only these") {
    std::vector<std::vector<float>> losses;
    for (AbsentPolicy absent :
         {AbsentPolicy::skip, AbsentPolicy::renormalize, AbsentPolicy::reroute}) {
        Config config = tiny_sigmoid_config();
        config.federation.absent = absent;
        Rig all(config);
        config.topology = tiny_topology({{1, 1}, {1, 1}});
        Rig half(config);
        CHECK(all.token_losses() != half.token_losses());
        std::vector<int32_t> slots(16, -1);
        for (int l : {0, 1})
            for (int e = 0; e < 4; ++e) slots[l * 8 + e] = e;
        all.model().set_residents(slots);
        CHECK(all.token_losses() == half.token_losses());
        losses.push_back(half.token_losses());
    }
    CHECK(losses[0] != losses[1]);
    CHECK(losses[0] != losses[2]);
    CHECK(losses[1] != losses[2]);
}

TEST_CASE("rerouting to fewer residents than a token has choices is refused") {
    Config config = tiny_sigmoid_config();
    config.federation.absent = AbsentPolicy::reroute;
    Rig rig(config);
    std::vector<int32_t> slots(16, -1);
    for (int i : {0, 1, 8}) slots[i] = i % 8;
    CHECK_THROWS_AS(rig.model().set_residents(slots), Error);
    slots[9] = 1;
    CHECK_NOTHROW(rig.model().set_residents(slots));
}

TEST_CASE("a micro-batch of another size or without its documents is refused") {
    Rig rig(tiny_sigmoid_config());
    std::vector<float> losses(rig.shape().tokens());
    Batch batch = rig.batch();
    batch.begin.clear();
    CHECK_THROWS_AS(rig.model().evaluate(token_batch(batch), losses), Error);
    batch = tiny_batch(rig.config(), 5, {0, 3});
    CHECK_THROWS_AS(rig.model().evaluate(token_batch(batch), losses), Error);
    CHECK(Transformer::activation_bytes(rig.config().model, rig.shape()) > 0);
}
