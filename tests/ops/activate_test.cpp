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

TEST_CASE("activate: silu is 0 far below, and 1 in slope far above") {
    Pool pool("extreme");
    const std::vector<float> x{-3e38f, -1e30f, -81.0f, 0.0f, 81.0f, 1e30f};
    const Tensor hidden = pool.from(x, Shape(1, 6)),
                 dy = pool.from(std::vector<float>(6, 1.0f), Shape(1, 6));
    const Activate forward{
        .y = pool.blank(Shape(1, 6)), .hidden = hidden, .activation = Activation::silu};
    const ActivateBackward backward{.dhidden = pool.blank(Shape(1, 6)),
                                    .dy = dy,
                                    .hidden = hidden,
                                    .activation = Activation::silu};
    const auto cpu = make_cpu_backend(1);
    cpu->run(forward);
    cpu->run(backward);
    for (int i = 0; i < 6; ++i) {
        CHECK(forward.y.as<float>()[i] == Approx(x[i] > 0 ? x[i] : 0).margin(1e-30));
        CHECK(backward.dhidden.as<float>()[i] == Approx(x[i] > 0   ? 1.0
                                                        : x[i] < 0 ? 0.0
                                                                   : 0.5)
                                                     .margin(1e-30));
    }
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
