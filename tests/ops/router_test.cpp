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
    op.z = op.affinity = pool.blank(Shape(2));
    CHECK_THROWS_AS(op.check(), Error);  // 15 rows in 2 sequences

    for (const auto& each : cases<RouterBackward>()) {
        if (each.name != "layer_scale") continue;
        Pool other = each.pool();
        RouterBackward backward = each.build(other);
        backward.layer_scale = {};
        CHECK_THROWS_AS(backward.check(), Error);
        backward.dlayer_scale = {};
        CHECK_NOTHROW(backward.check());
    }
}

TEST_CASE("router: a layer scale of 1 gives the bits of none, of 2 twice the gates") {
    const auto backend = make_cpu_backend(2);
    int tried = 0;
    for (const auto& each : cases<Router>()) {
        if (each.size >= Size::bench || each.name.find("layer_scale") != std::string::npos)
            continue;
        INFO(each.name);
        Pool pool = each.pool();
        Router op = each.build(pool);
        const Router none = run_on(*backend, op, pool);
        op.layer_scale = pool.from<float>({1});
        CHECK(same_bits(none, run_on(*backend, op, pool)));
        op.layer_scale = pool.from<float>({2});
        const auto once = values(none.gate), twice = values(run_on(*backend, op, pool).gate);
        for (size_t i = 0; i < once.size(); ++i) CHECK(twice[i] == 2 * once[i]);
        ++tried;
    }
    for (const auto& each : cases<RouterBackward>()) {
        if (each.size >= Size::bench || each.name.find("layer_scale") != std::string::npos)
            continue;
        INFO(each.name);
        Pool pool = each.pool();
        RouterBackward op = each.build(pool);
        const RouterBackward none = run_on(*backend, op, pool);
        op.layer_scale = pool.from<float>({1});
        CHECK(same_bits(none, run_on(*backend, op, pool)));
        ++tried;
    }
    CHECK(tried > 80);
}

TEST_CASE("router: NaN is chosen first and seen") {
    const auto backend = make_cpu_backend(1);
    int tried = 0;
    for (const auto& each : cases<Router>()) {
        if (each.name != "experts_130" && each.name != "experts_512") continue;
        INFO(each.name);
        Pool pool = each.pool();
        Router op = each.build(pool);
        const Router before = run_on(*backend, op, pool);
        const int64_t N = op.logits.shape[0], E = op.logits.shape[1], K = op.gate.shape[1];
        for (const int64_t bad : {int64_t{0}, E / 2 + 3, E - 1}) {
            const Tensor logits = pool.copy(op.logits);
            logits.as<float>()[2 * E + bad] = std::nanf("");
            op.logits = logits;
            const Router after = run_on(*backend, op, pool);
            for (int64_t i = 0; i < N * K; ++i) {
                const bool changed = i / K == 2;
                const float gate = after.gate.as<float>()[i];
                if (!changed) CHECK(gate == before.gate.as<float>()[i]);
                if (changed) CHECK(std::isnan(gate));
            }
            // In a softmax all are NaN, and the lower ids come first.
            const bool all = op.score == RouterScore::softmax;
            CHECK(after.expert.as<int32_t>()[2 * K] == (all ? 0 : bad));
            op.logits = before.logits;
            ++tried;
        }
    }
    CHECK(tried == 6);
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

namespace {

// The case's op under a policy, run.
template <class Op>
Op run_with(const Case<Op>& each, AbsentChoices absent, Pool& pool) {
    Op op = each.build(pool);
    op.absent = absent;
    return run_on(*make_cpu_backend(2), op, pool);
}

constexpr AbsentChoices kPolicies[] = {AbsentChoices::skip, AbsentChoices::renormalize,
                                       AbsentChoices::reroute};

}  // namespace

TEST_CASE("router: where all experts are resident every policy gives the same bits") {
    int tried = 0;
    const auto check = [&]<class Op>(const Case<Op>& each) {
        if (each.name.find("all_resident") == std::string::npos) return;
        INFO(Op::name << ", case " << each.name);
        Pool pool = each.pool();
        const Op skip = run_with(each, AbsentChoices::skip, pool);
        for (AbsentChoices absent : kPolicies) {
            Pool other = each.pool();
            CHECK(same_bits(skip, run_with(each, absent, other)));
            ++tried;
        }
    };
    for (const auto& each : cases<Router>()) check(each);
    for (const auto& each : cases<RouterBackward>()) check(each);
    CHECK(tried >= 18);
}

TEST_CASE("router: renormalised gates have the mass of all choices, within the limit") {
    int whole = 0, limited = 0, nothing = 0;
    for (const auto& each : cases<Router>()) {
        if (each.name.find("renormalize") != 0) continue;
        INFO(each.name);
        Pool pool = each.pool(), other = each.pool();
        const Router now = run_with(each, AbsentChoices::renormalize, pool);
        const Router skip = run_with(each, AbsentChoices::skip, other);
        CHECK(values(now.expert) == values(skip.expert));
        CHECK(values(now.mass) == values(skip.mass));
        const int64_t K = now.gate.shape[1];
        for (int64_t n = 0; n < now.gate.shape[0]; ++n) {
            double all = 0, served = 0, sum = 0;
            for (int64_t k = n * K; k < (n + 1) * K; ++k) {
                const double before = skip.gate.as<float>()[k];
                all += before;
                if (skip.slot.as<int32_t>()[k] >= 0) served += before;
                sum += now.gate.as<float>()[k];
                if (now.slot.as<int32_t>()[k] < 0) CHECK(now.gate.as<float>()[k] == 0);
            }
            const bool limit = all > now.max_renormalize * served;
            CHECK(sum == Approx(limit ? now.max_renormalize * served : all));
            ++(served == 0 ? nothing : limit ? limited : whole);
        }
    }
    CHECK(whole > 50);
    CHECK(limited > 10);
    CHECK(nothing > 10);
}

TEST_CASE("router: rerouted tokens choose residents, and fewer than top_k are refused") {
    for (const auto& each : cases<Router>()) {
        if (each.name.find("reroute") != 0) continue;
        INFO(each.name);
        Pool pool = each.pool();
        const Router result = run_with(each, AbsentChoices::reroute, pool);
        for (int64_t i = 0; i < result.slot.count(); ++i) {
            const int32_t expert = result.expert.as<int32_t>()[i];
            CHECK(result.slot.as<int32_t>()[i] >= 0);
            CHECK(result.slot.as<int32_t>()[i] == result.resident.as<int32_t>()[expert]);
        }
        // What absent experts would score moves the affinity alone.
        Pool other = each.pool();
        Router changed = each.build(other);
        const Tensor logits = other.copy(changed.logits);
        const int64_t E = logits.shape[1];
        for (int64_t i = 0; i < logits.count(); ++i)
            if (changed.resident.as<int32_t>()[i % E] < 0) logits.as<float>()[i] += 1;
        changed.logits = logits;
        const Router moved = run_on(*make_cpu_backend(1), changed, other);
        CHECK(values(moved.gate) == values(result.gate));
        CHECK(values(moved.mass) == values(result.mass));
        CHECK(values(moved.z) == values(result.z));
        const bool all = each.name.find("all_resident") != std::string::npos;
        CHECK((values(moved.affinity) == values(result.affinity)) == all);
    }
    for (const auto& each : cases<Router>()) {
        if (each.name != "one_resident") continue;
        Pool pool = each.pool();
        CHECK_THROWS_AS(run_with(each, AbsentChoices::reroute, pool), Error);
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
                       .affinity = run.output(Shape(1)),
                       .bias = bias,
                       .resident = op.resident,
                       .layer_scale = op.layer_scale,
                       .score = op.score,
                       .normalize = op.normalize,
                       .scale = op.scale,
                       .absent = op.absent,
                       .max_renormalize = op.max_renormalize};
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
                sum += op.daffinity * forward.affinity.as<double>()[0];
            }
            return sum;
        };
        check_gradient("logits", loss, op.logits, values(run.after.dlogits));
        if (op.dlayer_scale)
            check_gradient("layer_scale", loss, op.layer_scale,
                           added(run.before.dlayer_scale, run.after.dlayer_scale));
    });
}
