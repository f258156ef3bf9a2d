// What a step is planned to send inside a group, against what it sends.
#include "plan/traffic.h"

#include <catch2/catch.hpp>

#include "comm/counting_communicator.h"
#include "ops/cpu/cpu_backend.h"
#include "support/step_plan.h"

using namespace fomoe;

namespace {

struct Case {
    int ranks, expert_parallel;
    bool overlap;
};

// Every token chooses every expert: any routing is even.
Config all_chosen(const Case& c) {
    Config config = tiny_sigmoid_config();
    config.model.moe.top_k = config.model.moe.n_experts;
    config.train.two_batch_overlap = c.overlap;
    config.topology = tiny_topology({{c.ranks, c.expert_parallel}});
    return config;
}

}  // namespace

TEST_CASE("a step sends its group what is planned") {
    for (const Case& c : {Case{1, 1, false}, {2, 1, false}, {2, 2, false}, {4, 2, true}}) {
        CAPTURE(c.ranks, c.expert_parallel);
        const Config config = all_chosen(c);
        const Placement placement = placement_of(config);
        std::vector<int64_t> sent_wrong(c.ranks), tokens_wrong(c.ranks);
        run_ranks(c.ranks, [&](Communicator& threads) {
            SentBytes sent;
            const auto job = make_counting_communicator(threads, sent);
            CpuBackend backend(1);
            const World world(config.topology, threads.rank(), c.ranks);
            const ArenaLayout layout =
                arena_layout(all_parameters(config.model, placement), placement, world);
            GroupCommunicators ranks(*job, world);
            InnerStep step(config, world, placement, layout, backend, ranks);
            sent = {};
            step.run(1, tiny_batch(config, 1, InnerStep::sequences(config, world)), false);

            const StepTraffic planned = step_traffic(config, world, layout, nullptr);
            // Weights are gathered from as many bytes as gradients are scattered in.
            sent_wrong[threads.rank()] =
                2 * sent.of(CommCall::reduce_scatter) - planned.dense - planned.experts;
            tokens_wrong[threads.rank()] = sent.of(CommCall::all_to_all) - planned.tokens;
        });
        CHECK(sent_wrong == std::vector<int64_t>(c.ranks));
        CHECK(tokens_wrong == std::vector<int64_t>(c.ranks));
    }
}
