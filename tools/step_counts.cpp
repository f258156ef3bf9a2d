// Counts the ops of a training step of a config at its full size, without memory or computation:
// what tools/estimate.py makes times of.
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "absent_ranks.h"
#include "base/log.h"
#include "comm/counting_communicator.h"
#include "config/load.h"
#include "counting_backend.h"
#include "data/tokenizer.h"
#include "model/flops.h"
#include "train/step.h"

namespace fomoe {
namespace {

// The share of a token's choices that fall on one of `experts` of E, and the chance that any of its
// K different ones does, when all are alike.
double share(double experts, double E) { return experts / E; }
double any_chosen(int experts, int E, int K) {
    double none = 1;
    for (int k = 0; k < K; ++k) none *= std::max(0.0, double(E - experts - k) / (E - k));
    return 1 - none;
}

// Of the first group, by its first rank.
struct FirstRank {
    World world;
    Placement placement;
    double executed;  // choices of a token in a layer
    double rows_to_rank;
};
FirstRank shape_of(const Config& config) {
    FirstRank shape{World(config.topology, 0, config.topology.n_ranks()),
                    Placement(config.federation, config.topology, config.model.moe.n_experts), 0,
                    0};
    const MoeConfig& moe = config.model.moe;
    const int last = config.model.n_layers - 1;  // a layer with experts, if there is any
    const int held = static_cast<int>(shape.placement.residents(last, 0).size());
    const AbsentPolicy absent = config.federation.absent;
    const bool all = absent == AbsentPolicy::reroute || absent == AbsentPolicy::proxy;
    const int serving = all ? moe.n_experts : held;
    const int EP = shape.world.own().expert_parallel;
    shape.executed = moe.top_k * share(serving, moe.n_experts);
    shape.rows_to_rank = any_chosen(serving / EP, moe.n_experts, moe.top_k);
    return shape;
}

Batch batch_of(const Config& config, const World& world) {
    Batch batch;
    batch.n_sequences = InnerStep::sequences(config, world).size();
    const int64_t N = batch.n_sequences * config.data.seq_len;
    batch.tokens.assign(N, 0);
    batch.targets.assign(N, 0);
    batch.positions.assign(N, 0);
    if (config.data.document_mask) batch.begin.assign(N, 0);
    batch.valid_tokens = N;
    batch.group_valid_tokens = int64_t{config.train.batch} * config.data.seq_len;
    return batch;
}

void count(const std::vector<std::string>& files, const std::vector<std::string>& sets) {
    Config config = load_config(files, sets);
    config.model.vocab_size = vocab_size(config.model);
    const FirstRank shape = shape_of(config);
    const World& world = shape.world;
    const double micro = double(config.train.micro_batch) * config.data.seq_len;

    CountingBackend backend({micro * shape.executed, micro * shape.rows_to_rank});
    const std::vector<Parameter> all = all_parameters(config.model, shape.placement);
    const ArenaLayout layout = arena_layout(all, shape.placement, world);
    const FrozenLayout frozen = frozen_layout(all, shape.placement, world);
    SentBytes sent;
    AbsentRanks job(1);
    GroupCommunicators ranks(job, world);
    std::vector<std::unique_ptr<AbsentRanks>> absent;
    const auto connect = [&](Ranks& to, int size) {
        absent.push_back(std::make_unique<AbsentRanks>(size));
        to.host = make_counting_communicator(*absent.back(), sent);
    };
    const int P = world.own().ranks, EP = world.own().expert_parallel;
    connect(ranks.group, P);
    connect(ranks.expert_parallel, EP);
    connect(ranks.expert_replicas, P / EP);
    InnerStep step(config, world, shape.placement, layout, backend, ranks,
                   config.federation.absent == AbsentPolicy::proxy ? &frozen : nullptr,
                   StartValues::zeros);
    const Batch batch = batch_of(config, world);
    backend.reset();
    sent = {};
    step.run(1, batch, false);

    const int moe_layers = config.model.n_layers - config.model.moe.first_dense_layers;
    fmt::print(
        "{{\"name\": \"{}\", \"dtype\": \"{}\", \"tokens\": {}, \"ranks\": {}, "
        "\"expert_parallel\": {},\n \"flops_per_token\": {:.0f},\n \"rows\": [",
        config.name, name_of(dtype_of(config.train.dtype)), batch.valid_tokens, P, EP,
        flops_per_token(config.model, config.data.seq_len).of(shape.executed * moe_layers));
    const char* comma = "\n";
    for (const CountedRow& row : backend.rows()) {
        fmt::print(
            "{}  {{\"op\": \"{}\", \"dtype\": \"{}\", \"calls\": {}, \"flops\": {:.0f}, "
            "\"bytes\": {:.0f}}}",
            comma, row.op, name_of(row.dtype), row.calls, row.flops, row.bytes);
        comma = ",\n";
    }
    fmt::print("],\n \"sent\": [");
    comma = "\n";
    for (int i = 0; i < kCommCalls; ++i) {
        if (!sent.calls[i] || !sent.bytes[i]) continue;
        fmt::print("{}  {{\"call\": \"{}\", \"calls\": {}, \"bytes\": {}}}", comma,
                   name_of(static_cast<CommCall>(i)), sent.calls[i], sent.bytes[i]);
        comma = ",\n";
    }
    fmt::print("]}}\n");
}

}  // namespace
}  // namespace fomoe

int main(int argc, char** argv) {
    using namespace fomoe;
    CLI::App app(
        "Counts the ops of a training step, of the first rank of the first group, as JSON.");
    std::vector<std::string> files, sets;
    app.add_option("config", files, "Config files")->required();
    app.add_option("--set", sets, "Override a key: --set train.batch=4")->expected(1)->take_all();
    CLI11_PARSE(app, argc, argv);
    init_log(LogLevel::info);
    try {
        count(files, sets);
    } catch (const Error& error) {
        log(LogLevel::info, error.what());
        return static_cast<int>(error.exit);
    }
    return 0;
}
