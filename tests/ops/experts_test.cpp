// The routed experts and their gradients.
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("experts: as the reference") {
    check_cases<ExpertsForward>();
    check_cases<ExpertsBackward>();
}

TEST_CASE("experts: wrong operands are refused") {
    check_refusals<ExpertsForward>({7});  // weights: any number of elements
    check_refusals<ExpertsBackward>();
}

TEST_CASE("experts: gradients by finite differences") {
    differentiate_cases<ExpertsBackward>([](const Differentiated<ExpertsBackward>& run) {
        const auto& op = run.wide;
        const ExpertsForward forward{.y = run.output(op.dy.shape),
                                     .hidden = run.output(op.hidden.shape),
                                     .choice = run.pool.copy(op.choice),
                                     .offset = run.pool.copy(op.offset),
                                     .x = op.x,
                                     .slot = op.slot,
                                     .gate = op.gate,
                                     .weights = op.weights,
                                     .expert_offset = op.expert_offset,
                                     .activation = op.activation,
                                     .d_expert = op.d_expert};
        const auto loss = [&] {
            reference(forward);
            return dot(forward.y, op.dy);
        };
        check_gradient("x", loss, op.x, values(run.after.dx));
        check_gradient("gate", loss, op.gate, values(run.after.dgate));
        check_gradient("weights", loss, op.weights, added(run.before.dweights, run.after.dweights));
    });
}

TEST_CASE("experts: memory between the experts is left alone") {
    const auto backend = make_cpu_backend(2);
    for (const auto& each : cases<ExpertsBackward>()) {
        if (each.name != "odd") continue;
        Pool pool = each.pool();
        const ExpertsBackward op = each.build(pool);
        const auto change = added(op.dweights, run_on(*backend, op, pool).dweights);
        std::vector<bool> belongs(change.size(), false);
        const int64_t size = (op.matrices() + 1) * op.d_expert * op.x.shape[1];
        for (int64_t s = 0; s < op.expert_offset.shape[0]; ++s)
            std::fill_n(belongs.begin() + op.expert_offset.as<int64_t>()[s], size, true);
        for (size_t i = 0; i < change.size(); ++i)
            if (!belongs[i]) CHECK(change[i] == 0);
    }
}
