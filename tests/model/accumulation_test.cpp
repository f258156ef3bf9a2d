// Gradients and totals over several backward passes.
#include <catch2/catch.hpp>
#include <limits>
#include <map>

#include "model/transformer.h"
#include "support/model_rig.h"

using namespace fomoe;

namespace {

std::map<std::string, std::vector<double>> gradients(const Rig& rig) {
    std::map<std::string, std::vector<double>> all;
    for (const Parameter& p : rig.layout().parameters) all[p.name] = rig.gradient(p);
    return all;
}

}  // namespace

TEST_CASE("a second backward pass adds to the gradients and to the totals") {
    Rig rig(tiny_sigmoid_config());
    rig.evaluate();
    auto once = gradients(rig);
    const Transformer::Totals first = rig.model().totals();
    rig.model().train(token_batch(rig.batch()),
                      1.0 / static_cast<double>(rig.batch().valid_tokens));
    for (const Parameter& p : rig.layout().parameters) {
        INFO(p.name);
        const std::vector<double> twice = rig.gradient(p);
        double error = 0;
        for (size_t i = 0; i < twice.size(); ++i)
            error = std::max(error, std::abs(twice[i] - 2 * once[p.name][i]));
        CHECK(error <= 1e-5 * norm(twice));
    }
    CHECK(rig.model().totals().loss == 2 * first.loss);
    CHECK(rig.model().totals().balance == Approx(2 * first.balance));
    CHECK(rig.model().totals().z == Approx(2 * first.z));
    CHECK(rig.model().totals().affinity == 2 * first.affinity);
    for (size_t i = 0; i < first.load.size(); ++i)
        CHECK(rig.model().totals().load[i] == 2 * first.load[i]);
}

TEST_CASE("cleared gradients become those that were zero before, whatever they had") {
    Rig rig(tiny_sigmoid_config());
    const int64_t E = rig.config().model.moe.n_experts;
    std::vector<int32_t> slots = rig.model().default_slots();
    for (size_t e = 0; e < slots.size(); e += E + 1) slots[e] = -1;  // gets no token
    rig.model().set_residents(slots);
    const auto train = [&] { rig.model().train(token_batch(rig.batch()), 0.1); };
    rig.fill_gradients(0);
    train();
    const auto once = gradients(rig);
    train();
    const auto twice = gradients(rig);
    for (const float before : {0.0f, 3.0f, std::numeric_limits<float>::quiet_NaN()}) {
        rig.fill_gradients(before);
        rig.model().clear_gradients();
        train();
        CHECK(gradients(rig) == once);
        train();
        CHECK(gradients(rig) == twice);
    }
    size_t without = 0;
    for (const auto& [name, gradient] : once)
        without += name.ends_with("experts.0.up_proj.weight") && norm(gradient) == 0;
    CHECK(without > 0);
}
