#include "train/start_block.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "config/hugging_face.h"
#include "ops/matmul_ceiling.h"

namespace fomoe {
namespace {

constexpr int kHostName = 64;

std::string mebibytes(int64_t bytes) {
    return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576.0);
}
std::string count(int64_t n) { return short_count(static_cast<double>(n)); }

std::string plural(int64_t n, const std::string& one) {
    return fmt::format("{} {}{}", n, one, n == 1 ? "" : "s");
}

// The names, or of many the first and the last.
std::string host_names(const std::vector<std::string>& hosts) {
    if (hosts.size() <= 2) return joined(hosts, ",");
    return fmt::format("{}..{} ({})", hosts.front(), hosts.back(), hosts.size());
}

std::vector<std::string> hosts_of(const std::vector<RankPlace>& places, int first, int n) {
    std::vector<std::string> hosts;
    for (int rank = first; rank < first + n; ++rank)
        if (std::ranges::find(hosts, places[rank].host) == hosts.end())
            hosts.push_back(places[rank].host);
    return hosts;
}

std::string mixture_of(const GroupConfig& group) {
    if (group.data.empty()) return "all, by size";
    std::vector<std::string> parts;
    for (const auto& [source, weight] : group.data)
        parts.push_back(fmt::format("{} {:g}", source, weight));
    return joined(parts, ", ");
}

// Columns as wide as their widest cell; the last one ends where it ends.
std::vector<std::string> table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<size_t> width(rows[0].size());
    for (const auto& row : rows)
        for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
    std::vector<std::string> lines;
    for (const auto& row : rows) {
        std::string line;
        for (size_t i = 0; i + 1 < row.size(); ++i)
            line += row[i] + std::string(width[i] + 2 - row[i].size(), ' ');
        lines.push_back(line + row.back());
    }
    return lines;
}

std::vector<std::string> topology_table(const StartFacts& facts) {
    const Config& config = facts.config;
    const int first_layer = config.model.moe.first_dense_layers;
    const bool rotates = config.federation.placement == PlacementKind::rotate;
    std::vector<std::vector<std::string>> rows{{"group", "ranks", "hosts", "expert_parallel",
                                                rotates ? "experts of the first layer" : "experts",
                                                "sequences", "data"}};
    for (int g = 0; g < facts.world.n_groups(); ++g) {
        const World::Group& group = facts.world.groups[g];
        const int last = group.first_rank + group.ranks - 1;
        rows.push_back(
            {group.name,
             group.ranks == 1 ? concat(last) : fmt::format("{}-{}", group.first_rank, last),
             host_names(hosts_of(facts.places, group.first_rank, group.ranks)),
             concat(group.expert_parallel),
             first_layer < config.model.n_layers
                 ? fmt::format("{} of {}", ranges(facts.placement.residents(first_layer, g)),
                               config.model.moe.n_experts)
                 : "none",
             concat(config.train.batch), mixture_of(config.topology.groups[g])});
    }
    return table(rows);
}

std::string batch_line(const StartFacts& facts) {
    const Config& config = facts.config;
    const int64_t G = facts.world.n_groups();
    const int64_t tokens = int64_t{config.train.batch} * config.data.seq_len * G;
    const int64_t of_rank = config.train.batch / facts.world.groups[0].ranks;
    return fmt::format(
        "batch: {} x {} sequences x {} = {} tokens a step, {} in {}; rank 0 computes {}, {} at a "
        "time",
        plural(G, "group"), config.train.batch, plural(config.data.seq_len, "token"), count(tokens),
        count(tokens * config.train.steps), plural(config.train.steps, "step"),
        plural(of_rank, "sequence"), config.train.micro_batch);
}

std::string data_line(const StartFacts& facts) {
    int64_t all = 0;
    std::vector<std::string> parts;
    size_t i = 0;
    for (const auto& [name, prefix] : facts.config.data.sources) {
        all += facts.source_tokens[i];
        parts.push_back(fmt::format("{} {}", name, count(facts.source_tokens[i++])));
    }
    return fmt::format("data: {} tokens ({})", count(all), joined(parts, ", "));
}

// How often each source is read, and once more what is read again.
std::vector<std::string> epoch_lines(const StartFacts& facts) {
    std::vector<std::string> all, again;
    size_t i = 0;
    for (const auto& [name, prefix] : facts.config.data.sources) {
        const double epochs = facts.epochs[i++];
        all.push_back(fmt::format("{} {:.3g}", name, epochs));
        if (epochs > 1) again.push_back(fmt::format("{} {:.1f} times", name, epochs));
    }
    const std::string steps = plural(facts.config.train.steps, "step");
    std::vector<std::string> lines{fmt::format("epochs in {}: {}", steps, joined(all, ", "))};
    if (!again.empty())
        lines.push_back(fmt::format("read more than once in {}: {}", steps, joined(again, ", ")));
    return lines;
}

std::string precision_line(const StartFacts& facts) {
    const TrainConfig& train = facts.config.train;
    const bool narrow = train.dtype == ComputeType::bf16;
    return fmt::format("precision: {}{}; a matmul alone reaches {:.0f} GFLOP/s in {}",
                       narrow ? "bf16, with weights of AdamW, moments and gradients in f32" : "f32",
                       train.tf32 ? " (TF32 matmuls on a GPU)" : "", facts.ceiling,
                       facts.world.groups[0].name);
}

}  // namespace

std::string ranges(const std::vector<int>& numbers) {
    std::string text;
    for (size_t i = 0; i < numbers.size();) {
        size_t last = i;
        while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
        text += fmt::format("{}{}", text.empty() ? "" : ",", numbers[i]);
        if (last > i) text += fmt::format("-{}", numbers[last]);
        i = last + 1;
    }
    return text;
}

std::vector<RankPlace> rank_places(Communicator& job, const Threads& threads) {
    constexpr int kWords = kHostName / 8 + 1;
    int64_t own[kWords] = {};
    gethostname(reinterpret_cast<char*>(own), kHostName - 1);
    own[kWords - 1] = threads.count;
    std::vector<int64_t> all(int64_t{kWords} * job.size());
    job.all_gather(view(all.data(), Shape(job.size(), kWords)), view(own, Shape(kWords)));
    std::vector<RankPlace> places;
    for (int rank = 0; rank < job.size(); ++rank) {
        const int64_t* words = &all[int64_t{rank} * kWords];
        places.push_back({.host = reinterpret_cast<const char*>(words),
                          .threads = static_cast<int>(words[kWords - 1])});
    }
    return places;
}

double measure_ceiling(Communicator& job, Communicator& group, Backend& backend, DType dtype,
                       const Threads& threads) {
    job.barrier();
    double ceiling = matmul_ceiling(backend, dtype, threads.count);
    // The fastest calls are those that no other rank came between.
    if (backend.host_memory()) ceiling *= threads.share_of_core();
    group.all_reduce_sum(view(&ceiling, Shape(1)));
    return ceiling;
}

std::string where_groups_stand(const Manifest& manifest) {
    const auto [least, most] =
        std::ranges::minmax(manifest.groups, {}, [](const Manifest::Group& g) { return g.step; });
    return least.step == most.step ? fmt::format("step {}", least.step)
                                   : fmt::format("steps {} to {}", least.step, most.step);
}

std::string phase_line(const Phase& phase) {
    return fmt::format(
        "from step {}: rounds of {} steps{}", phase.begin + 1, phase.federation.local_steps,
        phase.full_replicas
            ? fmt::format("; every group holds every expert until step {}", phase.end)
            : "");
}

std::string memory_line(const MemoryPlan& plan, bool on_host) {
    const auto if_any = [](const char* name, int64_t bytes) {
        return bytes > 0 ? fmt::format(", {} {}", name, mebibytes(bytes)) : "";
    };
    const std::string parts = fmt::format(
        "weights {}, gradients {}, moments {}, activations {}{}{}{}{}", mebibytes(plan.weights),
        mebibytes(plan.gradients), mebibytes(plan.moments), mebibytes(plan.activations),
        if_any("bf16 weights", plan.rounded), if_any("frozen copies", plan.copies),
        if_any("evaluation", plan.evaluation), if_any("page ends", plan.pages));
    if (on_host)
        return fmt::format("memory planned for rank 0: {} ({}, scratch {}, outer state {}{})",
                           mebibytes(plan.total()), parts, mebibytes(plan.scratch),
                           mebibytes(plan.outer), if_any("snapshot", plan.snapshot));
    return fmt::format(
        "memory planned for rank 0: {} of the device ({}) beside the scratch of its ops, {} of "
        "the host (outer state {}, weights on their way {}{})",
        mebibytes(plan.total() - plan.beside_device()), parts,
        mebibytes(plan.beside_device() + plan.weights), mebibytes(plan.outer),
        mebibytes(plan.weights), if_any("snapshot", plan.snapshot));
}

std::vector<std::string> start_block(const StartFacts& facts) {
    const Config& config = facts.config;
    const ParameterCounts& n = facts.parameters;
    int64_t threads = 0;
    for (const RankPlace& place : facts.places) threads += place.threads;
    const auto ranks = static_cast<int>(facts.places.size());
    std::vector<std::string> lines{fmt::format(
        "fomoe {} | run {} | seed {} | {}, {}, {}", FOMOE_VERSION, config.name, config.seed,
        plural(static_cast<int64_t>(hosts_of(facts.places, 0, ranks).size()), "host"),
        plural(ranks, "rank"), plural(threads, "thread"))};
    for (const std::string& line : topology_table(facts)) lines.push_back(line);
    lines.push_back(fmt::format(
        "model: {} parameters, {} active for a token | shared {}, router {}, experts {} | rank 0 "
        "holds {}",
        count(n.total), count(n.active), count(n.shared), count(n.router), count(n.expert),
        count(n.per_rank)));
    lines.push_back(batch_line(facts));
    lines.push_back(precision_line(facts));
    lines.push_back(data_line(facts));
    for (const std::string& line : epoch_lines(facts)) lines.push_back(line);
    const std::string run = facts.plan.directory.string();
    lines.push_back(
        fmt::format("files: {0}/config.yaml, checkpoints, metrics, logs below {0}", run));
    if (!architecture_of(config.model))
        lines.push_back("model/ of the checkpoints has names of its own: " +
                        no_architecture_text(config.model));
    return lines;
}

StartMetrics start_metrics(const Config& config, const World& world, const Placement& placement,
                           const ParameterCounts& parameters, const std::string& backend) {
    StartMetrics m{.steps = config.train.steps,
                   .run = config.name,
                   .version = FOMOE_VERSION,
                   .groups = {},
                   .ranks = world.own().ranks,
                   .tokens_per_step = int64_t{config.train.batch} * config.data.seq_len,
                   .n_layers = config.model.n_layers,
                   .n_experts = config.model.moe.n_experts,
                   .top_k = config.model.moe.top_k,
                   .moe_layers = {},
                   .residents = {},
                   .local_steps = config.federation.local_steps,
                   .dtype = config.train.dtype == ComputeType::bf16 ? "bf16" : "f32",
                   .backend = backend,
                   .epochs = {},
                   .parameters = parameters};
    for (const World::Group& group : world.groups) m.groups.push_back(group.name);
    for (int l = config.model.moe.first_dense_layers; l < config.model.n_layers; ++l) {
        m.moe_layers.push_back(l);
        m.residents.push_back(placement.residents(l, world.group));
    }
    return m;
}

}  // namespace fomoe
