// Moving token rows to their destinations and back.
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("permute: as the reference") {
    check_cases<DispatchPlan>();
    check_cases<Permute>();
    check_cases<Combine>();
}

TEST_CASE("permute: wrong operands are refused") {
    check_refusals<DispatchPlan>();
    check_refusals<Permute>();
    check_refusals<Combine>({2});  // position: any number of destinations

    Pool pool("refused");
    DispatchPlan op = cases<DispatchPlan>()[2].build(pool);
    const int64_t M = op.token.shape[0] - 1;
    op.token = op.token.reshaped(Shape(M));
    op.row_slot = op.row_slot.reshaped(Shape(M, op.row_slot.shape[1]));
    CHECK_THROWS_AS(op.check(), Error);  // a row too few for the worst case
}

TEST_CASE("permute: combine is the backward of permute, and the other way round") {
    const auto backend = make_cpu_backend(2);
    for (const auto& each : cases<DispatchPlan>()) {
        if (each.size >= Size::bench) continue;
        INFO(each.name);
        Pool pool = each.pool();
        const DispatchPlan plan = run_on(*backend, each.build(pool), pool);
        const int64_t N = plan.slot.shape[0], Q = plan.position.shape[1], D = 7;
        const int64_t M = plan.offset.as<int32_t>()[Q];
        const Tensor x = pool.normal(Shape(N, D)), dy = pool.normal(Shape(M, D));
        const Permute sent = run_on(
            *backend,
            Permute{.y = pool.blank(Shape(M, D)), .x = x, .index = plan.token.reshaped(Shape(M))},
            pool);
        const Combine back =
            run_on(*backend,
                   Combine{.y = pool.blank(Shape(N, D)), .x = dy, .position = plan.position}, pool);
        CHECK(dot(sent.y, dy) == Approx(dot(x, back.y)).epsilon(1e-5).margin(1e-5));
    }
}
