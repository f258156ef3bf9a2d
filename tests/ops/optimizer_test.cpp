// AdamW and the sum of squares.
#include "support/op_test.h"

using namespace fomoe;

TEST_CASE("adamw: as the reference") { check_cases<AdamW>(); }

TEST_CASE("cast: as the reference, to the bit") { check_cases<Cast>(); }

TEST_CASE("sum_squares: as the reference") { check_cases<SumSquares>(); }

TEST_CASE("optimizer: wrong operands are refused") {
    check_refusals<AdamW>();
    check_refusals<Cast>();
    check_refusals<SumSquares>({1});  // x: any number of elements

    Pool pool("refused");
    AdamW op = cases<AdamW>()[1].build(pool);
    op.step = 0;
    CHECK_THROWS_AS(op.check(), Error);
}

TEST_CASE("adamw: the first step moves every weight by the rate, against its gradient") {
    const auto backend = make_cpu_backend(1);
    Pool pool("first step");
    const int64_t P = 53;
    const AdamW op{.weight = pool.normal(Shape(P)),
                   .m = pool.normal(Shape(P), 0.0f),
                   .v = pool.normal(Shape(P), 0.0f),
                   .grad = pool.normal(Shape(P)),
                   .grad_scale = pool.from<float>({3.0f}),
                   .lr = 0.25f};
    const AdamW result = run_on(*backend, op, pool);
    const auto grad = values(op.grad), before = values(op.weight), after = values(result.weight);
    for (int64_t i = 0; i < P; ++i)
        CHECK(after[i] - before[i] == Approx(grad[i] > 0 ? -0.25 : 0.25).epsilon(1e-4));
}
