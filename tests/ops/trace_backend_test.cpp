// TraceBackend counts what runs through it and changes nothing.
#include "ops/trace_backend.h"

#include "support/op_test.h"

using namespace fomoe;

TEST_CASE("trace backend: calls, flops and bytes by op") {
    Pool pool("trace");
    const auto cpu = make_cpu_backend(1);
    TraceBackend trace(*cpu);
    CHECK(trace.name() == "cpu");
    CHECK(trace.report().empty());

    const Tensor x = pool.normal(Shape(3, 5)), weight = pool.normal(Shape(4, 5));
    const Linear linear{pool.blank(Shape(3, 4)), x, weight};
    for (int i = 0; i < 3; ++i) trace.run(linear);
    const Tensor index = pool.from<int32_t>({2, 0});
    const Permute permute{pool.blank(Shape(2, 5)), x, index};
    trace.run(permute, Queue::comm);

    std::map<std::string_view, TraceRow> rows;
    double last = std::numeric_limits<double>::infinity();
    for (const TraceRow& row : trace.report()) {
        rows[row.name] = row;
        CHECK(row.seconds > 0);
        CHECK(row.seconds <= last);  // the longest first
        last = row.seconds;
    }
    REQUIRE(rows.size() == 2);
    CHECK(rows["linear"].calls == 3);
    CHECK(rows["linear"].flops == 3 * 2.0 * 3 * 4 * 5);
    CHECK(rows["linear"].bytes == 3 * 4.0 * (12 + 15 + 20));
    CHECK(rows["permute"].calls == 1);
    CHECK(rows["permute"].flops == 0);
    CHECK(rows["permute"].bytes == 4.0 * (10 + 15 + 2));

    const Linear alone{pool.blank(Shape(3, 4)), x, weight};
    cpu->run(alone);
    CHECK(same_bits(linear, alone));

    trace.reset();
    CHECK(trace.report().empty());
    trace.run(permute);
    CHECK(trace.report().at(0).calls == 1);
}

TEST_CASE("trace backend: the rows of experts are counted when they are known") {
    Pool pool("trace experts");
    const auto cpu = make_cpu_backend(1);
    TraceBackend trace(*cpu);
    const Tensor slot = pool.from<int32_t>({0, -1, -1, 1, 0, -1}, Shape(3, 2));
    trace.run(ExpertsForward{.y = pool.blank(Shape(3, 3)),
                             .hidden = pool.blank(Shape(6, 4)),
                             .choice = pool.blank(Shape(6), DType::i32),
                             .offset = pool.blank(Shape(3), DType::i32),
                             .x = pool.normal(Shape(3, 3)),
                             .slot = slot,
                             .gate = pool.normal(Shape(3, 2)),
                             .weights = pool.normal(Shape(36)),
                             .expert_offset = pool.from<int64_t>({0, 18}),
                             .d_expert = 2});
    // Three choices have a slot; three matrices of 3 x 2 each.
    CHECK(trace.report().at(0).flops == 2.0 * 3 * 3 * 3 * 2);
}

TEST_CASE("trace backend: an op that is refused is not counted") {
    Pool pool("refused");
    const auto cpu = make_cpu_backend(1);
    TraceBackend trace(*cpu);
    CHECK_THROWS_AS(trace.run(Linear{pool.blank(Shape(3, 4)), pool.normal(Shape(3, 5)),
                                     pool.normal(Shape(4, 6))}),
                    Error);
    CHECK(trace.report().empty());
}
