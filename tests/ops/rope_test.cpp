// Rotary positions with QK-norm, and their gradients.
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("rope: as the reference") {
    check_cases<Rope>();
    check_cases<RopeBackward>();
}

TEST_CASE("rope: wrong operands are refused") {
    check_refusals<Rope>();
    check_refusals<RopeBackward>();

    for (const auto& each : cases<Rope>()) {
        if (each.name != "head_norm") continue;
        Pool pool = each.pool();
        Rope op = each.build(pool);
        op.x = op.qkv;
        CHECK_THROWS_AS(op.check(), Error);  // the norm cannot work in place
        op = each.build(pool);
        op.k_weight = {};
        CHECK_THROWS_AS(op.check(), Error);  // one weight without the other
        op = each.build(pool);
        op.rotary_size = 3;
        CHECK_THROWS_AS(op.check(), Error);
    }
}

TEST_CASE("rope: gradients by finite differences") {
    differentiate_cases<RopeBackward>([](const Differentiated<RopeBackward>& run) {
        const auto& op = run.wide;
        const Tensor x = run.pool.copy(op.x ? op.x : op.dqkv);  // without a norm any values do
        const Rope forward{.qkv = run.output(op.dqkv.shape),
                           .rstd = op.rstd ? run.output(op.rstd.shape) : Tensor{},
                           .x = x,
                           .q_weight = op.q_weight,
                           .k_weight = op.k_weight,
                           .position = op.position,
                           .heads = op.heads,
                           .kv_heads = op.kv_heads,
                           .rotary_size = op.rotary_size,
                           .theta = op.theta};
        const auto loss = [&] {
            reference(forward);
            return dot(forward.qkv, op.dqkv);
        };
        check_gradient("x", loss, x, values(run.after.dx));
        if (!op.q_weight) return;
        check_gradient("q_weight", loss, op.q_weight,
                       added(run.before.dq_weight, run.after.dq_weight));
        check_gradient("k_weight", loss, op.k_weight,
                       added(run.before.dk_weight, run.after.dk_weight));
    });
}

TEST_CASE("rope: turning keeps lengths, and scores depend on distances alone") {
    const auto backend = make_cpu_backend(1);
    const int64_t Dh = 16;
    Pool pool("rope distances");
    const Tensor head = pool.normal(Shape(1, 3 * Dh));
    std::vector<float> rows;
    for (int n = 0; n < 4; ++n)
        for (int64_t i = 0; i < 3 * Dh; ++i) rows.push_back(head.as<float>()[i]);
    const Rope op{.qkv = pool.blank(Shape(4, 3 * Dh)),
                  .x = pool.from(rows, Shape(4, 3 * Dh)),
                  .position = pool.from<int32_t>({0, 7, 40, 47}),
                  .heads = 1,
                  .kv_heads = 1,
                  .rotary_size = 16};
    const std::vector<double> out = values(run_on(*backend, op, pool).qkv);
    const auto product = [&](int n, int64_t a, int m, int64_t b) {
        double sum = 0;
        for (int64_t i = 0; i < Dh; ++i) sum += out[n * 3 * Dh + a + i] * out[m * 3 * Dh + b + i];
        return sum;
    };
    CHECK(product(0, 0, 0, 0) == Approx(product(3, 0, 3, 0)).epsilon(1e-5));
    CHECK(product(1, 0, 0, Dh) == Approx(product(3, 0, 2, Dh)).epsilon(1e-4));
    CHECK(product(1, 0, 0, Dh) != Approx(product(2, 0, 0, Dh)).epsilon(1e-2));
}
