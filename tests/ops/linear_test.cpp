// The dense matmul and its gradients.
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("linear: as the reference") {
    check_cases<Linear>();
    check_cases<LinearBackward>();
}

TEST_CASE("linear: wrong operands are refused") {
    check_refusals<Linear>();
    check_refusals<LinearBackward>();
}

TEST_CASE("linear: gradients by finite differences") {
    differentiate_cases<LinearBackward>([](const Differentiated<LinearBackward>& run) {
        const auto& op = run.wide;
        const Linear forward{.y = run.output(op.dy.shape), .x = op.x, .weight = op.weight};
        const auto loss = [&] {
            reference(forward);
            return dot(forward.y, op.dy);
        };
        check_gradient("weight", loss, op.weight, added(run.before.dweight, run.after.dweight));
        if (!op.dx) return;
        check_gradient(
            "x", loss, op.x,
            op.accumulate_dx ? added(run.before.dx, run.after.dx) : values(run.after.dx));
    });
}
