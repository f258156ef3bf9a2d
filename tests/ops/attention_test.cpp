// Causal attention and its gradient.
#include "ops/cpu/cpu_backend.h"
#include "ops/scratch.h"
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("attention: as the reference") {
    check_cases<Attention>();
    check_cases<AttentionBackward>();
    check_cases<CachedAttention>();
}

TEST_CASE("attention: wrong operands are refused") {
    check_refusals<Attention>();
    check_refusals<AttentionBackward>();
    check_refusals<CachedAttention>();

    Pool pool("refused");
    Attention op = cases<Attention>()[3].build(pool);
    op.sequences = 3;
    CHECK_THROWS_AS(op.check(), Error);  // 34 rows in 3 sequences
    op = cases<Attention>()[3].build(pool);
    op.heads = 0;
    CHECK_THROWS_AS(op.check(), Error);
}

TEST_CASE("attention: gradients by finite differences") {
    differentiate_cases<AttentionBackward>([](const Differentiated<AttentionBackward>& run) {
        const auto& op = run.wide;
        const Attention forward{.y = run.output(op.y.shape),
                                .lse = run.output(op.lse.shape),
                                .qkv = op.qkv,
                                .begin = op.begin,
                                .sequences = op.sequences,
                                .heads = op.heads,
                                .kv_heads = op.kv_heads,
                                .scale = op.scale};
        const auto loss = [&] {
            reference(forward);
            return dot(forward.y, op.dy);
        };
        check_gradient("qkv", loss, op.qkv, values(run.after.dqkv));
    });
}

TEST_CASE("attention: tokens that may not be seen have no influence") {
    const auto backend = make_cpu_backend(2);
    for (const auto& each : cases<Attention>()) {
        if (each.name != "grouped_documents") continue;
        Pool pool = each.pool();
        const Attention wide = each.build(pool);
        for (const Attention& op : {wide, narrowed(wide, pool)}) {
            const Attention first = run_on(*backend, op, pool);
            // Change the last token: nothing before it may move by a bit.
            Attention changed = op;
            const Tensor qkv = pool.copy(op.qkv);
            for (int64_t i = 0; i < qkv.shape[1]; ++i) {
                const int64_t at = (qkv.shape[0] - 1) * qkv.shape[1] + i;
                if (qkv.dtype == DType::bf16)
                    qkv.as<bf16>()[at] = to_bf16(1e4f);
                else
                    qkv.as<float>()[at] = 1e4f;
            }
            changed.qkv = qkv;
            const Attention second = run_on(*backend, changed, pool);
            const int64_t row = op.y.bytes() / op.y.shape[0];
            CHECK(std::memcmp(first.y.data, second.y.data, op.y.bytes() - row) == 0);
            CHECK(std::memcmp(first.y.data, second.y.data, op.y.bytes()) != 0);
        }
    }
}

TEST_CASE("attention: the number of threads changes no bit") {
    const auto one = make_cpu_backend(1), three = make_cpu_backend(3);
    const auto check = [&]<class Op>() {
        for (const Case<Op>& each : cases<Op>()) {
            if (each.size != Size::typical) continue;
            INFO(Op::name << ", case " << each.name);
            Pool pool = each.pool();
            const Op wide = each.build(pool);
            for (const Op& op : {wide, narrowed(wide, pool)})
                CHECK(same_bits(run_on(*one, op, pool), run_on(*three, op, pool)));
        }
    };
    check.operator()<Attention>();
    check.operator()<AttentionBackward>();
    check.operator()<CachedAttention>();
}

TEST_CASE("attention: the scratch that is planned for is what is held") {
    for (const auto& each : cases<AttentionBackward>()) {
        if (each.size > Size::typical) continue;
        INFO(each.name);
        Pool pool = each.pool();
        const AttentionBackward op = each.build(pool);
        for (int threads : {1, 3}) {
            CpuBackend backend(threads);
            Backend& cpu = backend;
            cpu.run(op);
            CHECK(backend.scratch_bytes() == cpu_attention_scratch(op.qkv.shape[0] / op.sequences,
                                                                   op.sequences, op.kv_heads,
                                                                   op.head_size(), threads));
        }
    }
}

namespace {

// Operands of whole tiles that are not numbers.
template <class Op>
Op of_nan(Pool& pool, DType dtype) {
    constexpr int64_t kTokens = 256, kHeadSize = 256;
    const Shape rows(kTokens, 3 * kHeadSize), outputs(kTokens, kHeadSize);
    Op op;
    op.qkv = pool.blank(rows, dtype);
    op.y = pool.blank(outputs, dtype);
    op.lse = pool.blank(Shape(kTokens, 1));
    if constexpr (std::is_same_v<Op, AttentionBackward>) {
        op.dqkv = pool.blank(rows, dtype);
        op.dy = pool.blank(outputs, dtype);
    }
    op.heads = op.kv_heads = 1;
    return op;
}

}  // namespace

TEST_CASE("attention: what an op leaves in its scratch reaches no other") {
    const auto backend = make_cpu_backend(1);
    const auto check = [&]<class Op>() {
        for (const Case<Op>& each : cases<Op>()) {
            if (each.size > Size::typical) continue;
            Pool pool = each.pool();
            const Op wide = each.build(pool);
            for (const Op& op : {wide, narrowed(wide, pool)}) {
                for (DType before : {DType::f32, DType::bf16}) {
                    INFO(Op::name << ", case " << each.name << " in " << name_of(op.qkv.dtype)
                                  << " behind NaN in " << name_of(before));
                    run_on(*backend, of_nan<Op>(pool, before), pool);
                    int64_t wrong = 0;
                    for (const Operand& x : operand_list(run_on(*backend, op, pool))) {
                        if (!x.tensor) continue;
                        for (double value : values(x.tensor)) wrong += !std::isfinite(value);
                    }
                    CHECK(wrong == 0);
                }
            }
        }
    };
    check.operator()<Attention>();
    check.operator()<AttentionBackward>();
}

TEST_CASE("attention: scores whose exponentials are all 0") {
    for (const auto& each : cases<Attention>()) {
        if (each.name != "T129_head_of_64") continue;
        Pool pool = each.pool();
        Attention op = each.build(pool);
        const Tensor qkv = pool.copy(op.qkv);
        const int64_t queries = op.heads * op.head_size(), keys = op.kv_heads * op.head_size();
        for (int64_t n = 0; n < qkv.shape[0]; ++n) {
            float* row = qkv.as<float>() + n * qkv.shape[1];
            std::fill_n(row, queries, 30.0f);
            std::fill_n(row + queries, keys, -30.0f);
        }
        op.qkv = qkv;
        const auto backend = make_cpu_backend(1);
        check_op(*backend, op, each.bound, pool);
        check_op(*backend, narrowed(op, pool), kBf16Bound, pool);
    }
}
