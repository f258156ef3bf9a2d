// Gradients are reduced bucket by bucket while the backward goes on.
#include <catch2/catch.hpp>

#include "comm/counting_communicator.h"
#include "ops/cpu/cpu_backend.h"
#include "support/step_plan.h"

using namespace fomoe;

namespace {

// Notes for every op how much this rank had given to reductions when it was issued.
class NotingBackend final : public CpuBackend {
public:
    explicit NotingBackend(const SentBytes& sent) : CpuBackend(1), sent_(sent) {}

    std::vector<std::pair<std::string, int64_t>> ops;

protected:
    void op_begins(const char* op) override {
        ops.push_back({op, sent_.of(CommCall::reduce_scatter)});
    }

private:
    const SentBytes& sent_;
};

Config deep(std::pair<int, int> group) {
    Config config = tiny_sigmoid_config();
    config.model.n_layers = 4;
    config.topology = tiny_topology({group});
    return config;
}

}  // namespace

TEST_CASE("the buckets of a layer are reduced behind its backward in the last micro-batch") {
    for (const auto& [n_ranks, EP] : {std::pair{2, 1}, {4, 2}}) {
        const int P = n_ranks, replicas = n_ranks / EP;
        const Config config = deep({P, EP});
        const int L = config.model.n_layers;
        const Placement placement = placement_of(config);
        std::vector<std::string> wrong(P);
        run_ranks(P, [&](Communicator& threads) {
            SentBytes sent;
            const auto job = make_counting_communicator(threads, sent);
            NotingBackend backend(sent);
            const World world(config.topology, threads.rank(), P);
            const ArenaLayout layout =
                arena_layout(all_parameters(config.model, placement), placement, world, 500);
            GroupCommunicators ranks(*job, world);
            InnerStep step(config, world, placement, layout, backend, ranks);
            const Range own = InnerStep::sequences(config, world);
            step.run(1, tiny_batch(config, 1, own), false);

            // Of the buckets that are final behind this layer.
            const auto bytes = [&](int layer) {
                int64_t sum = 0;
                for (const ArenaBucket& bucket : layout.buckets) {
                    const int sharers = bucket.experts ? replicas : P;
                    if (bucket.layer >= layer) sum += bucket.size / sharers * 4 * (sharers - 1);
                }
                return sum;
            };
            std::string& found = wrong[threads.rank()];
            int64_t micro = own.size() / config.train.micro_batch;
            int layer = L;
            for (const auto& [op, reduced] : backend.ops) {
                if (op == "linear_cross_entropy") {
                    --micro;
                    layer = L;
                }
                if (op != "attention_backward" && op != "embedding_backward") continue;
                if (op == "attention_backward") --layer;
                const bool embedding = op == "embedding_backward";
                const int64_t expected = micro > 0 ? 0 : bytes(embedding ? 0 : layer + 1);
                if (reduced != expected)
                    found += concat(op, " of layer ", layer, ": ", reduced, " bytes, expected ",
                                    expected, "; ");
            }
            if (micro != 0 || layer != 0) found += "other ops than expected; ";
            if (bytes(1) < bytes(-1) / 4) found += "little is reduced early; ";
            if (sent.of(CommCall::reduce_scatter) != bytes(-1)) found += "not all is reduced; ";
        });
        for (const std::string& found : wrong) CHECK(found == "");
    }
}

TEST_CASE("buckets change no bit of a step, apart from the order in which its norm is summed") {
    for (const auto& [ranks, EP] : {std::pair{2, 1}, {2, 2}, {4, 2}}) {
        INFO(ranks << " ranks, expert parallel " << EP);
        Plan plan{deep({ranks, EP}), 3};
        plan.config.train.optimizer.clip = 0;
        plan.config.train.dtype = ComputeType::bf16;
        const Trained many = train(plan);
        plan.bucket_elements = kBucketElements;
        const Trained one = train(plan);
        CHECK(many.gradients == one.gradients);
        CHECK(many.weights == one.weights);
        CHECK(many.results.back().loss == one.results.back().loss);
        CHECK(many.results.back().grad_norm == Approx(one.results.back().grad_norm).epsilon(1e-9));
    }
}
