// The choice of experts, its statistics, and its gradients.
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("router: as the reference") {
    check_cases<Router>();
    check_cases<Balance>();
    check_cases<RouterBackward>();
}

TEST_CASE("router: wrong operands are refused") {
    check_refusals<Router>();
    check_refusals<Balance>();
    check_refusals<RouterBackward>();

    Pool pool("refused");
    Router op = cases<Router>()[2].build(pool);
    op.count = pool.blank(Shape(2, 7));
    op.mass = pool.blank(Shape(2, 7));
    op.z = pool.blank(Shape(2));
    CHECK_THROWS_AS(op.check(), Error);  // 15 rows in 2 sequences
}

TEST_CASE("router: among equal scores the lower expert ids are chosen") {
    for (int threads : {1, 2}) {
        const auto backend = make_cpu_backend(threads);
        for (const auto& each : cases<Router>()) {
            if (each.name != "ties") continue;
            Pool pool = each.pool();
            const Router result = run_on(*backend, each.build(pool), pool);
            const int64_t K = result.expert.shape[1];
            for (int64_t i = 0; i < result.expert.count(); ++i)
                CHECK(result.expert.as<int32_t>()[i] == i % K);
        }
    }
}

TEST_CASE("router: the gradient of the balancing loss by finite differences") {
    differentiate_cases<Balance>([](const Differentiated<Balance>& run) {
        const Balance& op = run.wide;
        const auto loss = [&] {
            op.loss.as<double>()[0] = 0;
            reference(op);
            return op.weight * op.loss.as<double>()[0];
        };
        check_gradient("mass", loss, op.mass, values(run.after.dmass));
    });
}

TEST_CASE("router: gradients by finite differences") {
    differentiate_cases<RouterBackward>([](const Differentiated<RouterBackward>& run) {
        const auto& op = run.wide;
        const int64_t N = op.logits.shape[0], E = op.logits.shape[1], K = op.expert.shape[1];
        const int64_t tokens_a_sequence = N / op.dmass.shape[0];
        const auto expert = values(op.expert), slot = values(op.slot), dgate = values(op.dgate);
        const auto dmass = values(op.dmass);
        // Token by token, with a bias that keeps the choice.
        const Tensor bias = run.output(Shape(E));
        Router forward{.gate = run.output(Shape(1, K)),
                       .expert = run.pool.blank(Shape(1, K), DType::i32),
                       .slot = run.pool.blank(Shape(1, K), DType::i32),
                       .count = run.output(Shape(1, E)),
                       .mass = run.output(Shape(1, E)),
                       .z = run.output(Shape(1)),
                       .bias = bias,
                       .resident = run.pool.integers(Shape(E), 0, 1),
                       .score = op.score,
                       .normalize = op.normalize,
                       .scale = op.scale};
        const auto loss = [&] {
            double sum = 0;
            for (int64_t n = 0; n < N; ++n) {
                std::fill_n(bias.as<double>(), E, 0.0);
                for (int64_t k = 0; k < K; ++k)
                    bias.as<double>()[int64_t(expert[n * K + k])] = 1000.0 - 10.0 * k;
                forward.logits = op.logits.slice(n * E, E).reshaped(Shape(1, E));
                forward.target = op.target.slice(n, 1);
                reference(forward);
                const auto gate = values(forward.gate), mass = values(forward.mass);
                for (int64_t k = 0; k < K; ++k)
                    if (slot[n * K + k] >= 0) sum += gate[k] * dgate[n * K + k];
                for (int64_t e = 0; e < E; ++e)
                    sum += mass[e] * dmass[n / tokens_a_sequence * E + e];
                sum += op.dz * forward.z.as<double>()[0];
            }
            return sum;
        };
        check_gradient("logits", loss, op.logits, values(run.after.dlogits));
    });
}
