// CheckBackend against backends that do one thing wrong.
#include "ops/check_backend.h"

#include "support/op_test.h"

using namespace fomoe;
using Catch::Matchers::Contains;

namespace {

// A CPU backend of which one test spoils what an op has written, after it ran.
class Spoiled final : public Backend {
public:
    explicit Spoiled(std::string_view kind = "spoiled") : kind_(kind) {}

    template <class Op>
    Spoiled& after(std::function<void(const Op&)> spoil) {
        name_ = Op::name;
        spoil_ = [spoil](const void* op) { spoil(*static_cast<const Op*>(op)); };
        return *this;
    }

    std::string_view name() const override { return kind_; }
    bool host_memory() const override { return true; }
    void* allocate(int64_t bytes, std::string_view purpose) override {
        return inner_->allocate(bytes, purpose);
    }
    void release(void* data) override { inner_->release(data); }
    void copy_to_host(void* host, ConstTensor x, Queue queue) override {
        inner_->copy_to_host(host, x, queue);
    }
    void copy_from_host(Tensor x, const void* host, Queue queue) override {
        inner_->copy_from_host(x, host, queue);
    }
    void copy(Tensor to, ConstTensor from, Queue queue) override { inner_->copy(to, from, queue); }
    void zero(Tensor x, Queue queue) override { inner_->zero(x, queue); }
    Event record(Queue queue) override { return inner_->record(queue); }
    void wait(Queue queue, Event event) override { inner_->wait(queue, event); }
    void synchronize(Event event) override { inner_->synchronize(event); }
    void synchronize() override { inner_->synchronize(); }
    void* allocate_host(int64_t bytes) override { return inner_->allocate_host(bytes); }
    void release_host(void* data) override { inner_->release_host(data); }
    void copy_to_host_async(void* host, ConstTensor x, Queue queue) override {
        inner_->copy_to_host_async(host, x, queue);
    }
    void copy_from_host_async(Tensor x, const void* host, Queue queue) override {
        inner_->copy_from_host_async(x, host, queue);
    }

protected:
    void execute(const Embedding& op, Queue queue) override { spoil(op, queue); }
    void execute(const RmsNorm& op, Queue queue) override { spoil(op, queue); }
    void execute(const Linear& op, Queue queue) override { spoil(op, queue); }
    void execute(const Rope& op, Queue queue) override { spoil(op, queue); }
    void execute(const Attention& op, Queue queue) override { spoil(op, queue); }
    void execute(const CachedAttention& op, Queue queue) override { spoil(op, queue); }
    void execute(const Router& op, Queue queue) override { spoil(op, queue); }
    void execute(const Balance& op, Queue queue) override { spoil(op, queue); }
    void execute(const DispatchPlan& op, Queue queue) override { spoil(op, queue); }
    void execute(const Permute& op, Queue queue) override { spoil(op, queue); }
    void execute(const ExpertsForward& op, Queue queue) override { spoil(op, queue); }
    void execute(const Combine& op, Queue queue) override { spoil(op, queue); }
    void execute(const Activate& op, Queue queue) override { spoil(op, queue); }
    void execute(const LinearCrossEntropy& op, Queue queue) override { spoil(op, queue); }
    void execute(const ActivateBackward& op, Queue queue) override { spoil(op, queue); }
    void execute(const ExpertsBackward& op, Queue queue) override { spoil(op, queue); }
    void execute(const RouterBackward& op, Queue queue) override { spoil(op, queue); }
    void execute(const AttentionBackward& op, Queue queue) override { spoil(op, queue); }
    void execute(const RopeBackward& op, Queue queue) override { spoil(op, queue); }
    void execute(const LinearBackward& op, Queue queue) override { spoil(op, queue); }
    void execute(const RmsNormBackward& op, Queue queue) override { spoil(op, queue); }
    void execute(const EmbeddingBackward& op, Queue queue) override { spoil(op, queue); }
    void execute(const Cast& op, Queue queue) override { spoil(op, queue); }
    void execute(const Sum& op, Queue queue) override { spoil(op, queue); }
    void execute(const SumSquares& op, Queue queue) override { spoil(op, queue); }
    void execute(const ClipScale& op, Queue queue) override { spoil(op, queue); }
    void execute(const AdamW& op, Queue queue) override { spoil(op, queue); }

private:
    template <class Op>
    void spoil(const Op& op, Queue queue) {
        inner_->run(op, queue);
        if (spoil_ && name_ == Op::name) spoil_(&op);
    }

    std::unique_ptr<Backend> inner_ = make_cpu_backend(1);
    std::string_view kind_;  // what it says it is
    std::string_view name_;  // of the op that is spoiled
    std::function<void(const void*)> spoil_;
};

template <class Op>
Case<Op> first_case(Size size = Size::small) {
    for (const Case<Op>& each : cases<Op>())
        if (each.size == size) return each;
    throw Error(Exit::internal, "no such case");
}

// Runs the op in host memory, which is the memory of a CPU backend.
template <class Op>
void run_checked(Spoiled& tested, const Op& op) {
    const auto reference = make_cpu_backend(2);
    CheckBackend(tested, *reference).run(op);
}

}  // namespace

TEST_CASE("check backend: a correct backend passes with every op") {
    const auto tested = make_cpu_backend(1), reference = make_cpu_backend(2);
    CheckBackend check(*tested, *reference), narrow_check(*tested, *reference);
    int64_t runs = 0;
    for_each_op([&]<class Op>() {
        for (const Case<Op>& each : cases<Op>()) {
            if (each.size != Size::small) continue;
            INFO(Op::name << ", case " << each.name);
            Pool pool = each.pool();
            const Op op = each.build(pool);
            Pool other = each.pool();
            const Op alone = each.build(other);
            if constexpr (kHasActivations<Op>) {
                INFO("in bf16");
                Pool narrow = each.pool();
                REQUIRE_NOTHROW(narrow_check.run(narrowed(each.build(narrow), narrow)));
            }
            REQUIRE_NOTHROW(check.run(op));
            tested->run(alone);
            CHECK(same_bits(op, alone));  // what stands is what the tested backend wrote
            ++runs;
        }
    });
    CHECK(check.ops_compared() == runs);
    CHECK(check.worst_nmse() < 1e-10);
}

TEST_CASE("check backend: a wrong number is caught and named") {
    Pool pool("wrong number");
    Spoiled tested;
    tested.after<Linear>([](const Linear& op) { op.y.as<float>()[2] *= 1.01f; });
    const Tensor x = pool.normal(Shape(3, 5)), weight = pool.normal(Shape(4, 5));
    CHECK_THROWS_WITH(run_checked(tested, Linear{pool.blank(Shape(3, 4)), x, weight}),
                      Contains("linear: operand 0") && Contains("spoiled"));
    // Other ops of the same backend are right.
    const Tensor index = pool.from<int32_t>({2, 0});
    CHECK_NOTHROW(run_checked(tested, Permute{pool.blank(Shape(2, 5)), x, index}));
}

TEST_CASE("check backend: NaN where the reference has a number, and the other way round") {
    Pool pool("nan");
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const Tensor index = pool.from<int32_t>({2, 0});
    Spoiled tested;
    tested.after<Permute>([nan](const Permute& op) { op.y.as<float>()[7] = nan; });
    Tensor x = pool.normal(Shape(3, 5));
    const Permute op{pool.blank(Shape(2, 5)), x, index};
    CHECK_THROWS_WITH(run_checked(tested, op), Contains("permute"));
    x.as<float>()[2] = nan;  // row 0 is row 1 of y: both backends give NaN at 7
    CHECK_NOTHROW(run_checked(tested, op));
    tested.after<Permute>([](const Permute& op) { op.y.as<float>()[7] = 0; });
    CHECK_THROWS_WITH(run_checked(tested, op), Contains("permute"));
}

TEST_CASE("check backend: integers must be equal, stale ones are seen") {
    Pool pool("integers");
    Router op = first_case<Router>().build(pool);
    Spoiled tested;
    tested.after<Router>([](const Router& op) { op.slot.as<int32_t>()[0] += 1; });
    CHECK_THROWS_WITH(run_checked(tested, op), Contains("router: operand 2 (i32"));

    // What was there before the op stays, as if it had not been written.
    const Tensor before = pool.blank(op.expert.shape, DType::i32);
    tested.after<Router>(
        [before](const Router& op) { std::memcpy(op.expert.data, before.data, before.bytes()); });
    CHECK_THROWS_WITH(run_checked(tested, op), Contains("router: operand 1 (i32"));
}

TEST_CASE("check backend: rows behind the last are not compared, the last row is") {
    Pool pool("rows");
    const Tensor slot = pool.from<int32_t>({0, -1, -1, 1}, Shape(4, 1));
    const ExpertsForward op{.y = pool.blank(Shape(4, 3)),
                            .hidden = pool.blank(Shape(4, 4)),
                            .choice = pool.blank(Shape(4), DType::i32),
                            .offset = pool.blank(Shape(3), DType::i32),
                            .x = pool.normal(Shape(4, 3)),
                            .slot = slot,
                            .gate = pool.normal(Shape(4, 1)),
                            .weights = pool.normal(Shape(36)),
                            .expert_offset = pool.from<int64_t>({0, 18}),
                            .d_expert = 2};
    Spoiled tested;
    const auto set = [](int64_t row) {
        return [row](const ExpertsForward& op) {
            op.choice.as<int32_t>()[row] = 77;
            op.hidden.as<float>()[row * 4] = 77;
        };
    };
    tested.after<ExpertsForward>(set(2));
    CHECK_NOTHROW(run_checked(tested, op));
    tested.after<ExpertsForward>(set(1));
    CHECK_THROWS_WITH(run_checked(tested, op), Contains("experts_forward: operand 1"));
}

TEST_CASE("check backend: sums start from the same values, and shared operands stay shared") {
    Pool pool("shared");
    const auto tested = make_cpu_backend(1), reference = make_cpu_backend(1);
    CheckBackend check(*tested, *reference);
    const Tensor x = pool.normal(Shape(3, 8)), residual = pool.normal(Shape(3, 8));
    const Tensor sum = pool.copy(x), weight = pool.normal(Shape(8));
    // sum is x itself: a reference that kept them apart would still agree, so look at the result.
    REQUIRE_NOTHROW(check.run(RmsNorm{.y = pool.blank(Shape(3, 8)),
                                      .sum = sum,
                                      .rstd = pool.blank(Shape(3)),
                                      .x = sum,
                                      .residual = residual,
                                      .weight = weight}));
    for (int i = 0; i < 24; ++i)
        CHECK(sum.as<float>()[i] == x.as<float>()[i] + residual.as<float>()[i]);

    // A slice of another operand lies in the same place of the copy: slots 0 and 1 of one block.
    const Tensor block = pool.normal(Shape(2, 6)), index = pool.from<int32_t>({1});
    const Tensor row = block.slice(0, 6).reshaped(Shape(1, 6));
    const std::vector<double> last = values(block.slice(6, 6));
    REQUIRE_NOTHROW(check.run(Permute{row, block, index}));
    CHECK(values(row) == last);

    const Tensor total = pool.from<double>({1000.0});
    REQUIRE_NOTHROW(check.run(SumSquares{total, weight}));
    CHECK(*total.as<double>() > 1000.0);
}

TEST_CASE("check backend: bf16 is close, and equal where one kind of backend only rounds") {
    Pool pool("bf16");
    const auto shift = []<class Op>(const Op&, int bits) {
        return [bits](const Op& op) {
            op.y.template as<bf16>()[0].bits =
                static_cast<uint16_t>(op.y.template as<bf16>()[0].bits + bits);
        };
    };
    const Tensor x = pool.rounded(pool.normal(Shape(30, 8)));
    const Tensor weight = pool.rounded(pool.normal(Shape(8, 8)));
    const Linear linear{pool.blank(Shape(30, 8), DType::bf16), x, weight};
    const Cast cast{.y = pool.blank(Shape(30), DType::bf16), .x = pool.normal(Shape(30))};
    for (const std::string_view kind : {"spoiled", "cpu"}) {
        INFO(kind);
        Spoiled computes(kind), rounds(kind);
        computes.after<Linear>(shift(linear, 1));
        CHECK_NOTHROW(run_checked(computes, linear));
        computes.after<Linear>(shift(linear, 0x100));
        CHECK_THROWS_WITH(run_checked(computes, linear),
                          Contains("linear: operand 0") && Contains("NMSE"));
        rounds.after<Cast>(shift(cast, 1));
        if (kind == "cpu")
            CHECK_THROWS_WITH(run_checked(rounds, cast), Contains("cast: operand 0"));
        else
            CHECK_NOTHROW(run_checked(rounds, cast));
    }

    // What f32 comes of bf16 is as close as that; of f32 it is closer.
    for (const bool narrow : {false, true}) {
        const auto made = [&](Shape shape) {
            const Tensor values = pool.normal(shape);
            return narrow ? pool.rounded(values) : values;
        };
        const LinearBackward backward{.dx = {},
                                      .dweight = pool.normal(Shape(8, 8)),
                                      .dy = made(Shape(30, 8)),
                                      .x = made(Shape(30, 8)),
                                      .weight = made(Shape(8, 8))};
        Spoiled rough;
        rough.after<LinearBackward>([](const LinearBackward& op) {
            for (int i = 0; i < 64; ++i) op.dweight.as<float>()[i] *= 1.0f + (i % 2) * 1e-3f;
        });
        if (narrow)
            CHECK_NOTHROW(run_checked(rough, backward));
        else
            CHECK_THROWS_WITH(run_checked(rough, backward), Contains("linear_backward"));
    }
}
