// The routed experts and their gradients.
#include "ops/cpu/cpu_backend.h"
#include "ops/scratch.h"
#include "support/finite_difference.h"

using namespace fomoe;

namespace {

// The forward pass that `op` goes back through.
ExpertsForward forward_of(const ExpertsBackward& op, Tensor y, Tensor hidden, Tensor choice,
                          Tensor offset) {
    return {.y = y,
            .hidden = hidden,
            .choice = choice,
            .offset = offset,
            .x = op.x,
            .slot = op.slot,
            .gate = op.gate,
            .weights = op.weights,
            .expert_offset = op.expert_offset,
            .frozen = op.frozen,
            .n_frozen = op.n_frozen,
            .activation = op.activation,
            .d_expert = op.d_expert};
}

// Of the elements of the weights, those of experts that are trained.
std::vector<bool> trained(const ExpertsBackward& op) {
    std::vector<bool> trained(op.dweights.count(), false);
    const int64_t size = (op.matrices() + 1) * op.d_expert * op.x.shape[1];
    for (int64_t s = 0; s < op.expert_offset.shape[0] - op.n_frozen; ++s)
        std::fill_n(trained.begin() + op.expert_offset.as<int64_t>()[s], size, true);
    return trained;
}

// What the op has computed, and 0 where it should leave all as it is.
std::vector<double> gradient_of_weights(const ExpertsBackward& op, ConstTensor before,
                                        ConstTensor after) {
    std::vector<double> gradient = added(before, after);
    if (op.accumulate_dweights) return gradient;
    const std::vector<double> written = values(after);
    const std::vector<bool> of_experts = trained(op);
    for (size_t i = 0; i < gradient.size(); ++i)
        if (of_experts[i]) gradient[i] = written[i];
    return gradient;
}

}  // namespace

TEST_CASE("experts: as the reference") {
    check_cases<ExpertsForward>();
    check_cases<ExpertsBackward>();
}

TEST_CASE("experts: wrong operands are refused") {
    check_refusals<ExpertsForward>({7, 9});  // weights and frozen: any number of elements
    check_refusals<ExpertsBackward>({10, 12});

    for (const auto& each : cases<ExpertsForward>()) {
        if (each.name != "some_frozen") continue;
        Pool pool = each.pool();
        ExpertsForward op = each.build(pool);
        for (int n : {-1, 6}) {
            op.n_frozen = n;
            CHECK_THROWS_AS(op.check(), Error);
        }
        op.n_frozen = 1;
        CHECK_NOTHROW(op.check());
        op.frozen = {};
        CHECK_THROWS_AS(op.check(), Error);
        op.n_frozen = 0;
        CHECK_NOTHROW(op.check());
    }
}

TEST_CASE("experts: gradients by finite differences") {
    differentiate_cases<ExpertsBackward>([](const Differentiated<ExpertsBackward>& run) {
        const auto& op = run.wide;
        const ExpertsForward forward =
            forward_of(op, run.output(op.dy.shape), run.output(op.hidden.shape),
                       run.pool.copy(op.choice), run.pool.copy(op.offset));
        const auto loss = [&] {
            reference(forward);
            return dot(forward.y, op.dy);
        };
        check_gradient("x", loss, op.x, values(run.after.dx));
        check_gradient("gate", loss, op.gate, values(run.after.dgate));
        if (op.dweights)
            check_gradient("weights", loss, op.weights,
                           gradient_of_weights(op, run.before.dweights, run.after.dweights));
    });
}

TEST_CASE("experts: memory that is no resident expert's gets no gradient") {
    const auto backend = make_cpu_backend(2);
    for (const auto& each : cases<ExpertsBackward>()) {
        if (each.name != "odd" && each.name.find("frozen") == std::string::npos) continue;
        if (each.size >= Size::bench) continue;
        INFO(each.name);
        Pool pool = each.pool();
        const ExpertsBackward op = each.build(pool);
        if (!op.dweights) continue;
        const auto change = added(op.dweights, run_on(*backend, op, pool).dweights);
        const std::vector<bool> of_experts = trained(op);
        for (size_t i = 0; i < change.size(); ++i)
            if (!of_experts[i]) CHECK(change[i] == 0);
    }
}

namespace {

// The op with its frozen experts as residents: behind the others, with the same values.
template <class Op>
Op thawed(const Op& op, Pool& pool) {
    const int64_t R = op.expert_offset.shape[0], kept = op.weights.count();
    const Tensor weights = pool.raw(DType::f32, Shape(kept + op.frozen.count()));
    std::memcpy(weights.data, op.weights.data, op.weights.bytes());
    for (int64_t i = 0; i < op.frozen.count(); ++i)
        weights.template as<float>()[kept + i] = to_f32(op.frozen.template as<bf16>()[i]);
    const Tensor offset = pool.copy(op.expert_offset);
    for (int64_t s = R - op.n_frozen; s < R; ++s) offset.as<int64_t>()[s] += kept;
    Op out = op;
    out.weights = weights;
    out.expert_offset = offset;
    out.frozen = {};
    out.n_frozen = 0;
    return out;
}

bool equal_bits(ConstTensor a, ConstTensor b) {
    return a.bytes() >= b.bytes() && std::memcmp(a.data, b.data, b.bytes()) == 0;
}

}  // namespace

TEST_CASE("experts: a frozen expert serves to the bit as a resident with the same values") {
    int tried = 0;
    for (const int threads : {1, 2}) {
        const auto backend = make_cpu_backend(threads);
        for (const auto& each : cases<ExpertsForward>()) {
            if (each.size >= Size::bench || each.name.find("frozen") == std::string::npos) continue;
            INFO(each.name);
            Pool pool = each.pool();
            const ExpertsForward op = each.build(pool);
            CHECK(same_bits(run_on(*backend, op, pool), run_on(*backend, thawed(op, pool), pool)));
            ++tried;
        }
        for (const auto& each : cases<ExpertsBackward>()) {
            if (each.size >= Size::bench || each.name.find("frozen") == std::string::npos) continue;
            INFO(each.name);
            Pool pool = each.pool();
            const ExpertsBackward op = each.build(pool);
            if (!op.dweights) continue;
            ExpertsBackward other = thawed(op, pool);
            const Tensor dweights = pool.normal(other.weights.shape);
            std::memcpy(dweights.data, op.dweights.data, op.dweights.bytes());
            other.dweights = dweights;
            const auto frozen = run_on(*backend, op, pool), all = run_on(*backend, other, pool);
            CHECK(equal_bits(all.dx, frozen.dx));
            CHECK(equal_bits(all.dgate, frozen.dgate));
            CHECK(equal_bits(all.dweights, frozen.dweights));
            if (each.name == "all_frozen") CHECK(2 * frozen.flops() == all.flops());
            ++tried;
        }
    }
    CHECK(tried == 42);
}

TEST_CASE("experts: without gradients of the weights the others are the same to the bit") {
    int tried = 0;
    for (const int threads : {1, 2}) {
        const auto backend = make_cpu_backend(threads);
        for (const auto& each : cases<ExpertsBackward>()) {
            if (each.size >= Size::bench) continue;
            INFO(each.name);
            Pool pool = each.pool();
            const ExpertsBackward op = each.build(pool);
            if (!op.dweights) continue;
            ExpertsBackward less = op;
            less.dweights = {};
            const auto all = run_on(*backend, op, pool), some = run_on(*backend, less, pool);
            CHECK(equal_bits(all.dx, some.dx));
            CHECK(equal_bits(all.dgate, some.dgate));
            if (op.n_frozen == 0) CHECK(2 * some.flops() == all.flops());
            ++tried;
        }
    }
    CHECK(tried == 114);
}

TEST_CASE("experts: the scratch they keep is the one predicted") {
    for (const auto& each : cases<ExpertsBackward>()) {
        if (each.size >= Size::bench) continue;
        INFO(each.name);
        Pool pool = each.pool();
        const ExpertsBackward wide = each.build(pool);
        for (const ExpertsBackward& op : {wide, narrowed(wide, pool)})
            for (int threads : {1, 3}) {
                CpuBackend backend(threads);
                Backend& cpu = backend;
                cpu.run(op);
                cpu.run(forward_of(op, pool.blank(op.dy.shape, op.dy.dtype),
                                   pool.blank(op.hidden.shape, op.hidden.dtype),
                                   pool.blank(op.choice.shape, DType::i32),
                                   pool.blank(op.offset.shape, DType::i32)));
                CHECK(backend.scratch_bytes() ==
                      cpu_experts_scratch(op.x.shape[0], op.slot.shape[1], op.choice.shape[0],
                                          op.x.shape[1], op.d_expert, op.activation, op.x.dtype,
                                          op.n_frozen > 0, threads));
            }
    }
}
