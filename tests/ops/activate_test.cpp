// The nonlinearity of an MLP and its gradient.
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("activate: as the reference") {
    check_cases<Activate>();
    check_cases<ActivateBackward>();
}

TEST_CASE("activate: wrong operands are refused") {
    check_refusals<Activate>();
    check_refusals<ActivateBackward>();
}

TEST_CASE("activate: gradients by finite differences") {
    differentiate_cases<ActivateBackward>([](const Differentiated<ActivateBackward>& run) {
        const auto& op = run.wide;
        const Activate forward{
            .y = run.output(op.dy.shape), .hidden = op.hidden, .activation = op.activation};
        const auto loss = [&] {
            reference(forward);
            return dot(forward.y, op.dy);
        };
        check_gradient("hidden", loss, op.hidden, values(run.after.dhidden));
    });
}
