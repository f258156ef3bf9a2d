// The output matmul with the loss, and its gradients.
#include "ops/cpu/cpu_backend.h"
#include "ops/scratch.h"
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("linear_cross_entropy: as the reference") { check_cases<LinearCrossEntropy>(); }

TEST_CASE("linear_cross_entropy: wrong operands are refused") {
    check_refusals<LinearCrossEntropy>();

    Pool pool("refused");
    LinearCrossEntropy op = cases<LinearCrossEntropy>()[2].build(pool);
    op.dx = {};
    CHECK_THROWS_AS(op.check(), Error);  // one gradient without the other
}

TEST_CASE("linear_cross_entropy: gradients by finite differences") {
    differentiate_cases<LinearCrossEntropy>([](const Differentiated<LinearCrossEntropy>& run) {
        const auto& op = run.wide;
        if (!op.dx) return;
        LinearCrossEntropy forward = op;
        forward.dx = forward.dweight = {};
        const auto loss = [&] {
            reference(forward);
            double sum = 0;
            for (double each : values(forward.loss)) sum += each;
            return op.scale * sum;
        };
        check_gradient("x", loss, op.x, values(run.after.dx));
        // Those of a word in so many are lost in the rounding of what they are added to.
        if (op.weight.shape[0] > 10000) return;
        check_gradient("weight", loss, op.weight, added(run.before.dweight, run.after.dweight));
    });
}

TEST_CASE("linear_cross_entropy: the scratch it keeps is the one predicted") {
    for (const auto& each : cases<LinearCrossEntropy>()) {
        if (each.size >= Size::bench) continue;
        INFO(each.name);
        Pool pool = each.pool();
        const LinearCrossEntropy wide = each.build(pool);
        if (!wide.dx) continue;
        for (const LinearCrossEntropy& op : {wide, narrowed(wide, pool)})
            for (int threads : {1, 3}) {
                CpuBackend backend(threads);
                Backend& cpu = backend;
                cpu.run(op);
                CHECK(backend.scratch_bytes() ==
                      cpu_cross_entropy_scratch(op.x.shape[0], op.x.shape[1], op.weight.shape[0],
                                                op.x.dtype, threads));
            }
    }
}

TEST_CASE("linear_cross_entropy: the loss is the same with and without gradients") {
    const auto backend = make_cpu_backend(2);
    for (const auto& each : cases<LinearCrossEntropy>()) {
        if (each.size >= Size::bench) continue;
        INFO(each.name);
        Pool pool = each.pool();
        LinearCrossEntropy op = each.build(pool);
        const LinearCrossEntropy with = run_on(*backend, op, pool);
        op.dx = op.dweight = {};
        const LinearCrossEntropy without = run_on(*backend, op, pool);
        CHECK(nmse(values(without.loss), values(with.loss)) <= 1e-13);
    }
}
