// AdamW, the sums before it and the scale of the gradient.
#include "support/op_test.h"

using namespace fomoe;

TEST_CASE("adamw: as the reference") { check_cases<AdamW>(); }

TEST_CASE("cast: as the reference, to the bit") { check_cases<Cast>(); }

TEST_CASE("sum_squares: as the reference") { check_cases<SumSquares>(); }

TEST_CASE("sum: as the reference") { check_cases<Sum>(); }

TEST_CASE("clip_scale: as the reference") { check_cases<ClipScale>(); }

TEST_CASE("optimizer: wrong operands are refused") {
    check_refusals<AdamW>();
    check_refusals<Cast>();
    check_refusals<Sum>({1});
    check_refusals<ClipScale>();
    check_refusals<SumSquares>({1});  // x: any number of elements

    Pool pool("refused");
    AdamW op = cases<AdamW>()[1].build(pool);
    op.step = 0;
    CHECK_THROWS_AS(op.check(), Error);
}

TEST_CASE("adamw: told to skip, it writes nothing, not even the copy") {
    const auto backend = make_cpu_backend(1);
    for (const float scale : {-1.0f, std::nanf("")}) {
        Pool pool("skipped");
        const Shape P(53);
        const AdamW op{.weight = pool.normal(P),
                       .m = pool.normal(P),
                       .v = pool.normal(P, 0.1f, 1.0f),
                       .copy = pool.blank(P, DType::bf16),
                       .grad = pool.normal(P),
                       .grad_scale = pool.from<float>({scale}),
                       .lr = 0.25f};
        CHECK(same_bits(op, run_on(*backend, op, pool)));
    }
}

TEST_CASE("clip_scale: a gradient is scaled down to the largest norm, never up") {
    const auto backend = make_cpu_backend(1);
    const auto scale = [&](double squares, double clip) {
        Pool pool("clip");
        const ClipScale op{.grad_scale = pool.blank(Shape(1)),
                           .squares = pool.from<double>({squares}),
                           .loss = pool.from<double>({1.0}),
                           .clip = clip};
        return run_on(*backend, op, pool).grad_scale.as<float>()[0];
    };
    CHECK(scale(16.0, 1.0) == 0.25f);
    CHECK(scale(1.0, 1.0) == 1.0f);
    CHECK(scale(0.25, 1.0) == 1.0f);
    CHECK(scale(0.0, 1.0) == 1.0f);
    CHECK(scale(1e60, 0.0) == 1.0f);
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
