// RMSNorm with the residual sum, and its gradients.
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("rms_norm: as the reference") {
    check_cases<RmsNorm>();
    check_cases<RmsNormBackward>();
}

TEST_CASE("rms_norm: wrong operands are refused") {
    check_refusals<RmsNorm>();
    check_refusals<RmsNormBackward>();

    Pool pool("refused");
    RmsNorm op = cases<RmsNorm>()[2].build(pool);
    op.residual = op.x;
    CHECK_THROWS_AS(op.check(), Error);  // a residual without a sum
}

TEST_CASE("rms_norm: gradients by finite differences") {
    differentiate_cases<RmsNormBackward>([](const Differentiated<RmsNormBackward>& run) {
        const auto& op = run.wide;
        // The sum as input, the residual 0.
        const Tensor zero = run.output(op.sum.shape);
        std::fill_n(zero.as<double>(), zero.count(), 0.0);
        const RmsNorm forward{.y = run.output(op.dy.shape),
                              .sum = run.output(op.sum.shape),
                              .rstd = run.output(op.rstd.shape),
                              .x = op.sum,
                              .residual = zero,
                              .weight = op.weight};
        const auto loss = [&] {
            reference(forward);
            return dot(forward.y, op.dy) + (op.dsum ? dot(forward.sum, op.dsum) : 0);
        };
        check_gradient("x", loss, op.sum, values(run.after.dx));
        check_gradient("residual", loss, zero, values(run.after.dx));
        check_gradient("weight", loss, op.weight, added(run.before.dweight, run.after.dweight));
    });
}
