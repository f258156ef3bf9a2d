// Work that the CUDA plugin records and replays: the same numbers, fewer calls, and no stale
// addresses.
#include "cuda/trainee.h"
#include "ops/check_backend.h"
#include "ops/trace_backend.h"
#include "support/pool.h"

using namespace fomoe;
using Catch::Matchers::Contains;

namespace {

std::unique_ptr<Backend> open_plugin(bool graphs) { return cuda_plugin().open({.graphs = graphs}); }

// Device memory with x (P) and a sum (1) that Sum adds to.
class Summed {
public:
    Summed(Backend& backend, const std::vector<float>& values) : backend_(backend) {
        const auto n = static_cast<int64_t>(values.size());
        Arena tape;
        tape.take(DType::f32, Shape(n));
        tape.take(DType::f64, Shape(1));
        memory_ = Arena(backend, tape.bytes(), "numbers");
        x = memory_.take(DType::f32, Shape(n));
        sum = memory_.take(DType::f64, Shape(1));
        backend.copy_from_host(x, values.data());
        backend.zero(sum);
    }
    void add(Queue queue = Queue::compute) const { backend_.run(Sum{.sum = sum, .x = x}, queue); }
    double result() const {
        double value = 0;
        backend_.copy_to_host(&value, sum);
        return value;
    }
    Tensor x, sum;

private:
    Backend& backend_;
    Arena memory_;
};

// A batch whose tokens all count, as without a document mask, or another number of them.
Batch batch_of(const Config& config, int64_t step, int64_t valid_tokens = 0) {
    Batch batch = tiny_batch(config, static_cast<uint64_t>(step), {0, config.train.batch});
    batch.group_valid_tokens =
        valid_tokens ? valid_tokens : config.train.batch * config.data.seq_len;
    return batch;
}

Config small_config(int64_t steps = 20) {
    Config config = tiny_softmax_config();
    config.train.steps = steps;
    config.train.batch = 4;
    config.train.micro_batch = 2;
    return config;
}

std::vector<float> weights_of(Trainee& trainee) {
    const ConstTensor values = trainee.step().weights().on_host();
    return {values.as<float>(), values.as<float>() + values.count()};
}

// Two runs, one with graphs and one without, that are to have the same bits.
void check_same(const Config& config, const std::function<int64_t(int64_t)>& valid_tokens) {
    const auto recorded = open_plugin(true), called = open_plugin(false);
    Trainee with(config, *recorded), without(config, *called);
    for (int64_t s = 1; s <= config.train.steps; ++s) {
        INFO("step " << s);
        const StepResult a = with.run(s, batch_of(config, s, valid_tokens(s)));
        const StepResult b = without.run(s, batch_of(config, s, valid_tokens(s)));
        CHECK(same(a, b));
    }
    CHECK(weights_of(with) == weights_of(without));
    CHECK(findings() == "");
}

int64_t all_tokens(int64_t) { return 0; }

}  // namespace

TEST_CASE("cuda: twenty steps have the same bits with graphs and without", "[cuda]") {
    for (const ComputeType dtype : {ComputeType::f32, ComputeType::bf16}) {
        Config config = small_config();
        config.train.dtype = dtype;
        check_same(config, all_tokens);
    }
}

TEST_CASE("cuda: with graphs a step is a few calls", "[cuda]") {
    const Config config = small_config(4);
    std::vector<cudaemu_counts> counts;
    for (const bool graphs : {false, true}) {
        const auto backend = open_plugin(graphs);
        Trainee trainee(config, *backend);
        for (int64_t s = 1; s <= config.train.steps; ++s) {
            take_counts();
            trainee.run(s, batch_of(config, s));
            const auto taken = take_counts();
            if (!taken) return;  // of a real library nothing is known
            if (s == config.train.steps) counts.push_back(*taken);
        }
    }
    const auto calls = [](const cudaemu_counts& c) {
        return c.launches + c.host_functions + c.memsets + c.copies_on_device + c.graph_launches;
    };
    CAPTURE(calls(counts[0]), calls(counts[1]));
    CHECK(counts[0].graph_launches == 0);
    CHECK(counts[1].graph_launches == 2);  // one a micro-batch
    CHECK(calls(counts[1]) * 5 < calls(counts[0]));
    CHECK(counts[1].host_functions == 0);  // all matmuls are in the graphs
    CHECK(counts[1].host_waits == 1);
    CHECK(counts[1].copies_to_device == counts[0].copies_to_device);
    CHECK(counts[1].allocations == 0);
}

TEST_CASE("cuda: another loss scale is other work", "[cuda]") {
    const Config config = small_config(7);
    const auto changes = [](int64_t step) { return step % 3 == 0 ? int64_t{31} : int64_t{0}; };
    check_same(config, changes);
}

TEST_CASE("cuda: graphs survive scratch that grows", "[cuda]") {
    const Config config = small_config(5);
    const auto backend = open_plugin(true), other = open_plugin(false);
    Trainee with(config, *backend), without(config, *other);
    // A loss over so many words that its logits do not fit in what a step has needed.
    constexpr int64_t N = 64, D = 8, V = 8000;
    Pool pool("large");
    const auto on_device = [&](const Tensor& x, Arena& memory) {
        Arena tape;
        tape.take(x.dtype, x.shape);
        memory = Arena(*backend, tape.bytes(), "operands");
        const Tensor copy = memory.take(x.dtype, x.shape);
        backend->copy_from_host(copy, x.data);
        return copy;
    };
    Arena memory[4];
    const LinearCrossEntropy large{.loss = on_device(pool.blank(Shape(N)), memory[0]),
                                   .dx = {},
                                   .dweight = {},
                                   .x = on_device(pool.normal(Shape(N, D)), memory[1]),
                                   .weight = on_device(pool.normal(Shape(V, D)), memory[2]),
                                   .target = on_device(pool.integers(Shape(N), 0, V), memory[3])};
    for (int64_t s = 1; s <= config.train.steps; ++s) {
        if (s == 4) {
            take_counts();
            for (int i = 0; i < 2; ++i) backend->run(large);
            if (const auto counts = take_counts()) {
                CHECK(counts->allocations > 0);
                CHECK(counts->frees > 0);
            }
        }
        CHECK(same(with.run(s, batch_of(config, s)), without.run(s, batch_of(config, s))));
    }
    CHECK(weights_of(with) == weights_of(without));
    CHECK(findings() == "");
}

TEST_CASE("cuda: recorded steps have no findings in checked mode", "[cuda]") {
    set_checked(true);
    for (const ComputeType dtype : {ComputeType::f32, ComputeType::bf16}) {
        Config config = small_config(3);
        config.train.dtype = dtype;
        const auto backend = open_plugin(true);
        Trainee trainee(config, *backend);
        for (int64_t s = 1; s <= config.train.steps; ++s) trainee.run(s, batch_of(config, s));
    }
    set_checked(false);
    CHECK(findings() == "");
}

TEST_CASE("cuda: repeated work may use both queues", "[cuda]") {
    const auto repeated = [](bool ordered) {
        set_checked(true);
        const auto backend = open_plugin(true);
        {
            const Summed a(*backend, {1, 2, 3}), b(*backend, {10});
            backend->synchronize();
            const Event before = backend->record(Queue::compute);
            Event inside;
            const auto issue = [&] {
                backend->wait(Queue::comm, before);  // nothing to wait for
                a.add();
                const Event first = backend->record(Queue::compute);
                b.add();
                if (ordered) backend->wait(Queue::comm, first);
                a.add(Queue::comm);
                inside = backend->record(Queue::comm);
            };
            for (int i = 1; i <= 4; ++i) {
                b.add(Queue::comm);  // on the other queue, before and after
                backend->repeat(1, issue);
                backend->wait(Queue::compute, inside);
                a.add();
                b.add(Queue::comm);
                if (i == 2) backend->synchronize(inside);
            }
            backend->wait(Queue::compute, backend->record(Queue::comm));
            if (ordered) CHECK(a.result() == 4 * 3 * 6);
            CHECK(b.result() == 4 * 3 * 10);
        }
        set_checked(false);
        return findings();
    };
    CHECK(repeated(true) == "");
    if (take_counts()) CHECK_THAT(repeated(false), Contains("missing stream dependency"));
}

TEST_CASE("cuda: repeated work copies what the host holds at the time", "[cuda]") {
    const auto backend = open_plugin(true);
    const Summed a(*backend, {0});
    auto* host = static_cast<float*>(backend->allocate_host(sizeof(float)));
    double expected = 0;
    for (int i = 1; i <= 4; ++i) {
        *host = static_cast<float>(i);
        expected += i;
        backend->repeat(1, [&] {
            backend->copy_from_host_async(a.x, host, Queue::compute);
            a.add();
        });
        backend->synchronize();
    }
    CHECK(a.result() == expected);
    backend->release_host(host);
    CHECK(findings() == "");
}

TEST_CASE("cuda: only the last keys are kept", "[cuda]") {
    const auto backend = open_plugin(true);
    const Summed a(*backend, {1});
    const auto issue = [&] { a.add(); };
    int calls = 0;
    const auto launched = [&](uint64_t key) {
        take_counts();
        backend->repeat(key, issue);
        ++calls;
        const auto counts = take_counts();
        return counts ? static_cast<int>(counts->graph_launches) : -1;
    };
    if (launched(0) < 0) return;
    for (uint64_t key = 0; key < 8; ++key)
        for (int i = 0; i < 3; ++i) launched(key);
    for (uint64_t key = 0; key < 8; ++key) CHECK(launched(key) == 1);
    CHECK(launched(8) == 0);
    CHECK(launched(8) == 1);
    CHECK(launched(7) == 1);
    CHECK(launched(0) == 0);  // had to make place
    CHECK(launched(2) == 1);
    CHECK(a.result() == calls);
    CHECK(findings() == "");
}

TEST_CASE("cuda: memory that comes back as something else is not written by old work", "[cuda]") {
    const auto backend = open_plugin(true);
    for (int round = 1; round <= 2; ++round) {
        // The same key and perhaps the same addresses, but other work.
        const Summed a(*backend, {1, 1}), b(*backend, {5});
        const Summed& own = round == 1 ? a : b;
        for (int i = 0; i < 3; ++i) backend->repeat(1, [&] { own.add(); });
        CHECK(a.result() == (round == 1 ? 6 : 0));
        CHECK(b.result() == (round == 1 ? 0 : 15));
    }
    CHECK(findings() == "");
}

TEST_CASE("cuda: work that cannot be recorded is an error that names it", "[cuda]") {
    const auto backend = open_plugin(true);
    const Summed a(*backend, {1});
    float value = 1;
    double sum = 0;
    const std::vector<std::pair<std::string, std::function<void()>>> cases{
        {"copy to the host", [&] { backend->copy_to_host(&sum, a.sum); }},
        {"a copy from memory that the host may change",
         [&] { backend->copy_from_host(a.x, &value); }},
        {"cudaStreamSynchronize", [&] { backend->synchronize(); }},
        {"bytes of more are asked for", [&] { backend->allocate(100, "more"); }},
    };
    uint64_t key = 100;
    for (const auto& [reason, forbidden] : cases) {
        INFO(reason);
        const auto issue = [&] {
            a.add();
            forbidden();
        };
        backend->repeat(++key, issue);
        try {
            backend->repeat(key, issue);
            FAIL("it was recorded");
        } catch (const Error& error) {
            CHECK(error.exit == Exit::internal);
            CHECK_THAT(error.what(),
                       Contains(concat("key ", key)) && Contains("the op sum") && Contains(reason));
        }
        // The backend goes on, and so does the key with work that can be recorded.
        backend->zero(a.sum);
        for (int i = 0; i < 3; ++i) backend->repeat(key, [&] { a.add(); });
        CHECK(a.result() == 3);
    }
    CHECK_THROWS_WITH(backend->repeat(1, [&] { backend->repeat(2, [] {}); }),
                      Contains("inside of repeated work"));
    findings();  // of what was refused
}

TEST_CASE("cuda: --profile and --check-backend see every op of repeated work", "[cuda]") {
    const auto backend = open_plugin(true);
    const auto reference = make_cpu_backend(1);
    CheckBackend check(*backend, *reference);
    TraceBackend trace(check);
    const Summed a(trace, {1, 2});
    for (int i = 0; i < 4; ++i) trace.repeat(1, [&] { a.add(); });
    REQUIRE(trace.report().size() == 1);
    CHECK(trace.report()[0].calls == 4);
    CHECK(check.ops_compared() == 4);
    CHECK(a.result() == 12);
}
