#include "config/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <numeric>
#include <set>

#include "config/effects.h"
#include "config/schema.h"

namespace fomoe {
namespace {

constexpr size_t kMostShown = 8;

// "1, 2 or 4"; of many those next to the one that was asked for.
std::string choices(std::vector<int64_t> values, int64_t asked) {
    std::string rest;
    if (values.size() > kMostShown) {
        std::ranges::stable_sort(values, {}, [&](int64_t v) { return std::abs(v - asked); });
        values.resize(kMostShown);
        std::ranges::sort(values);
        rest = "for example ";
    }
    std::string text = rest;
    for (size_t i = 0; i < values.size(); ++i)
        text += fmt::format("{}{}",
                            i == 0                   ? ""
                            : i + 1 == values.size() ? " or "
                                                     : ", ",
                            values[i]);
    return text;
}

// Divisors of n that `fits`.
template <class Fits>
std::string divisors(int64_t n, int64_t asked, Fits fits) {
    std::vector<int64_t> found;
    for (int64_t d = 1; d * d <= n; ++d) {
        if (n % d != 0) continue;
        if (fits(d)) found.push_back(d);
        if (d != n / d && fits(n / d)) found.push_back(n / d);
    }
    std::ranges::sort(found);
    return choices(found, asked);
}

std::string divisors(int64_t n, int64_t asked) {
    return divisors(n, asked, [](int64_t) { return true; });
}

// The multiples of `unit` next to n: "64 or 96".
std::string neighbours(int64_t n, int64_t unit) {
    const int64_t below = n / unit * unit;
    return below == 0 ? fmt::format("{}", unit) : fmt::format("{} or {}", below, below + unit);
}

bool file_name_safe(const std::string& name) {
    return !name.empty() && name[0] != '.' && std::ranges::all_of(name, [](unsigned char c) {
        return std::isalnum(c) || c == '.' || c == '_' || c == '-';
    });
}

constexpr const char* kSafe = "letters, digits, '.', '_' and '-', and no '.' in front";

class Rules {
public:
    explicit Rules(const Config& config) : config_(config) {}

    std::vector<Problem> all() {
        if (!file_name_safe(config_.name))
            say("name", fmt::format("'{}' cannot name a directory; use {}", config_.name, kSafe));
        heads();
        experts();
        vocabulary();
        sources();
        for (Problem& problem : train_problems(config_)) problems_.push_back(std::move(problem));
        groups();
        placement();
        rounds();
        probe();
        for (Problem& problem : phase_problems(config_)) problems_.push_back(std::move(problem));
        calibration();
        return std::move(problems_);
    }

private:
    const Config& config_;
    std::vector<Problem> problems_;

    void say(std::string path, std::string message, std::vector<std::string> also = {}) {
        problems_.push_back({std::move(path), std::move(message), std::move(also)});
    }

    void heads() {
        const ModelConfig& m = config_.model;
        if (m.d_head == 0 && m.d_model % m.n_heads != 0) {
            say("model.n_heads",
                fmt::format("{} heads do not divide d_model {} ({} would); or give d_head",
                            m.n_heads, m.d_model, divisors(m.d_model, m.n_heads)),
                {"model.d_model", "model.d_head"});
            return;
        }
        if (m.n_heads % m.n_kv_heads != 0)
            say("model.n_kv_heads",
                fmt::format("{} does not divide the {} query heads ({} would)", m.n_kv_heads,
                            m.n_heads, divisors(m.n_heads, m.n_kv_heads)),
                {"model.n_heads"});
        const int rotary = m.rotary_size();
        if (rotary % 2 != 0) {
            ModelConfig wider = m;
            do wider.d_head = wider.head_size() + 1;
            while (wider.rotary_size() % 2 != 0);
            say("model.rotary_fraction",
                fmt::format("{} of a head of {} rotates {} elements, which must be even ({} would, "
                            "or a head of {})",
                            m.rotary_fraction, m.head_size(), rotary,
                            static_cast<double>(rotary - 1) / m.head_size(), wider.d_head),
                {"model.d_model", "model.n_heads", "model.d_head"});
        }
    }

    void experts() {
        const MoeConfig& moe = config_.model.moe;
        if (moe.top_k > moe.n_experts)
            say("model.moe.top_k",
                fmt::format("{} is more than the {} experts", moe.top_k, moe.n_experts),
                {"model.moe.n_experts"});
        if (moe.first_dense_layers > config_.model.n_layers)
            say("model.moe.first_dense_layers",
                fmt::format("{} is more than the {} layers", moe.first_dense_layers,
                            config_.model.n_layers),
                {"model.n_layers"});
        if (moe.first_dense_layers > 0 && moe.d_dense == 0)
            say("model.moe.first_dense_layers", "dense layers need d_dense, their hidden size",
                {"model.moe.d_dense"});
    }

    void vocabulary() {
        const int vocab = config_.model.vocab_size;
        if (config_.model.tokenizer == "bytes" && vocab != 0 && vocab < kByteTokens)
            say("model.vocab_size",
                fmt::format("{} is less than the {} ids of the tokenizer '{}'; 0 takes its size",
                            vocab, kByteTokens, config_.model.tokenizer),
                {"model.tokenizer"});
    }

    void sources() {
        if (config_.data.sources.empty())
            say("data.sources", "no source to train on; give name: prefix of token files");
        for (const auto& [name, prefix] : config_.data.sources)
            if (!file_name_safe(name))
                say("data.sources." + name,
                    fmt::format("'{}' cannot name a source; use {}", name, kSafe));
    }

    void groups() {
        std::set<std::string> names;
        for (size_t i = 0; i < config_.topology.groups.size(); ++i) {
            const GroupConfig& group = config_.topology.groups[i];
            const std::string path = fmt::format("topology.groups[{}]", i);
            if (group.name.empty())
                say(path + ".name", "missing; every group has a name");
            else if (!file_name_safe(group.name))
                say(path + ".name",
                    fmt::format("'{}' cannot name a group; use {}", group.name, kSafe));
            else if (!names.insert(group.name).second)
                say(path + ".name",
                    fmt::format("another group is already called '{}'", group.name));
            if (group.ranks % group.expert_parallel != 0)
                say(path + ".expert_parallel",
                    fmt::format("{} does not divide the {} ranks of '{}' ({} would)",
                                group.expert_parallel, group.ranks, group.name,
                                divisors(group.ranks, group.expert_parallel)),
                    {path + ".ranks"});
            batch(group, path);
            for (const auto& [source, weight] : group.data)
                if (!config_.data.sources.contains(source))
                    say(path + ".data." + source,
                        fmt::format("no such source; data.sources has {}", source_names()),
                        {"data.sources"});
        }
    }

    void batch(const GroupConfig& group, const std::string& path) {
        const TrainConfig& train = config_.train;
        if (train.batch % group.ranks != 0) {
            say("train.batch",
                fmt::format("{} sequences do not divide among the {} ranks of '{}' ({} ranks "
                            "would do, or a batch of {})",
                            train.batch, group.ranks, group.name,
                            divisors(train.batch, group.ranks),
                            neighbours(train.batch, group.ranks)),
                {path + ".ranks"});
            return;
        }
        const int share = train.batch / group.ranks;
        if (train.two_batch_overlap && train.micro_batch % 2 != 0) {
            const std::string even =
                divisors(share, train.micro_batch, [](int64_t d) { return d % 2 == 0; });
            say("train.two_batch_overlap",
                fmt::format("a micro_batch of {} has no two equal halves ({})", train.micro_batch,
                            even.empty() ? fmt::format("and no even one divides the {} sequences "
                                                       "of a rank of '{}'",
                                                       share, group.name)
                                         : even + " would"),
                {"train.micro_batch"});
        }
        if (share % train.micro_batch != 0)
            say("train.micro_batch",
                fmt::format("{} does not divide the {} sequences that each rank of '{}' has of "
                            "batch {} ({} would)",
                            train.micro_batch, share, group.name, train.batch,
                            divisors(share, train.micro_batch)),
                {"train.batch", path + ".ranks"});
    }

    std::string source_names() const {
        std::string text;
        for (const auto& [name, prefix] : config_.data.sources)
            text += (text.empty() ? "" : ", ") + name;
        return text.empty() ? "none" : text;
    }

    // What is decided without the token files.
    void probe() {
        const std::string key = "federation.probe_sequences";
        const int64_t n = config_.federation.probe_sequences;
        const int64_t sources = std::ssize(config_.data.sources);
        if (n > config_.train.micro_batch)
            say(key,
                fmt::format("{} is more than the {} sequences of a micro-batch", n,
                            config_.train.micro_batch),
                {"train.micro_batch"});
        else if (sources > 0 && n > sources * config_.data.valid_sequences)
            say(key,
                fmt::format("{} is more than the {} held-out sequences of all sources", n,
                            sources * config_.data.valid_sequences),
                {"data.valid_sequences", "data.sources"});
    }

    void rounds() {
        const FederationConfig& f = config_.federation;
        const std::pair<const char*, int> periods[] = {
            {"shared", f.shared_steps}, {"router", f.router_steps}, {"expert", f.expert_steps}};
        for (const auto& [cls, steps] : periods)
            if (steps > 0 && f.local_steps % steps != 0 && steps % f.local_steps != 0)
                say(fmt::format("federation.{}.local_steps", cls),
                    fmt::format("{} neither divides federation.local_steps {} nor is a multiple of "
                                "it ({}, or a multiple, would do)",
                                steps, f.local_steps, divisors(f.local_steps, steps)),
                    {"federation.local_steps"});
        for (const auto& [moment, steps] :
             {std::pair{"first", f.first_moment_steps}, {"second", f.second_moment_steps}})
            if (f.inner_state == InnerState::average && steps % f.local_steps != 0)
                say(fmt::format("federation.{}_moment.local_steps", moment),
                    fmt::format("{} is no multiple of federation.local_steps {} ({} would)", steps,
                                f.local_steps, neighbours(steps, f.local_steps)),
                    {"federation.local_steps"});
        if (f.reject_above > 0 && f.reject_above < 1)
            say("federation.reject_above",
                fmt::format("{} medians would leave out the median itself; at least 1, or 0 for no "
                            "limit",
                            f.reject_above));
    }

    void calibration() {
        const bool routed = config_.model.moe.first_dense_layers < config_.model.n_layers;
        if (config_.calibration.steps > 0 && !routed)
            say("calibration.steps",
                "all layers are dense, and the calibration is of routers and experts; lower "
                "model.moe.first_dense_layers or leave it out",
                {"model.moe.first_dense_layers"});
    }

    void placement() {
        const int n_groups = static_cast<int>(config_.topology.groups.size());
        if (explicit_placement(config_)) {
            if (!lists()) return;
            for (int i = 0; i < n_groups; ++i)
                residents(i, config_.topology.experts.at(config_.topology.groups[i].name).size(),
                          "topology.experts");
        } else if (const int n_blocks = blocks(); n_blocks > 0) {
            for (int i = 0; i < n_groups; ++i)
                residents(i, config_.model.moe.n_experts / n_blocks, "federation.replication");
        }
    }

    // Into how many blocks the experts are cut; 0: they cannot be.
    int blocks() {
        const int n_groups = static_cast<int>(config_.topology.groups.size());
        const int n_experts = config_.model.moe.n_experts;
        const int replication = config_.federation.replication;
        const std::string key = "federation.replication";
        if (n_groups % replication != 0) {
            say(key,
                fmt::format("{} does not divide the {} groups ({} would)", replication, n_groups,
                            divisors(n_groups, replication)),
                {"topology.groups"});
            return 0;
        }
        const int blocks = n_groups / replication;
        if (n_experts % blocks == 0) return blocks;
        const std::string would = divisors(
            n_groups, replication, [&](int64_t r) { return n_experts % (n_groups / r) == 0; });
        say(key,
            fmt::format("{} groups with replication {} hold {} blocks of experts, which do not "
                        "divide n_experts {} (replication {} would, or {} experts)",
                        n_groups, replication, blocks, n_experts, would,
                        neighbours(n_experts, blocks)),
            {"topology.groups", "model.moe.n_experts"});
        return 0;
    }

    // Whether topology.experts gives every group some experts, and every expert a group.
    bool lists() {
        const int n_experts = config_.model.moe.n_experts;
        const auto& experts = config_.topology.experts;
        const std::string key = "topology.experts";
        if (experts.empty()) {
            say("federation.placement",
                "explicit needs topology.experts, the experts of each group by its name", {key});
            return false;
        }
        const size_t before = problems_.size();
        std::string names;
        for (const GroupConfig& group : config_.topology.groups) {
            names += (names.empty() ? "" : ", ") + group.name;
            if (!experts.contains(group.name))
                say(key,
                    fmt::format("'{}' is not listed; every group holds at least one expert",
                                group.name),
                    {"topology.groups"});
        }
        std::vector<int> ownerless(n_experts);
        std::iota(ownerless.begin(), ownerless.end(), 0);
        for (const auto& [name, ids] : experts) {
            if (std::ranges::find(config_.topology.groups, name, &GroupConfig::name) ==
                config_.topology.groups.end())
                say(key + "." + name, fmt::format("no such group; topology.groups has {}", names),
                    {"topology.groups"});
            if (!ids.empty() && ids.back() >= n_experts)
                say(key + "." + name,
                    fmt::format("{} is no expert; the {} of a layer are 0 to {}", ids.back(),
                                n_experts, n_experts - 1),
                    {"model.moe.n_experts"});
            std::erase_if(ownerless, [&](int e) { return std::ranges::binary_search(ids, e); });
        }
        if (!ownerless.empty())
            say(key,
                fmt::format("no group holds {} of the {} experts", ids_text(ownerless), n_experts),
                {"model.moe.n_experts", "topology.groups"});
        return problems_.size() == before;
    }

    // What follows from the number of experts that a group holds; `key` decides it.
    void residents(int index, int residents, const std::string& key) {
        const GroupConfig& group = config_.topology.groups[index];
        const std::string path = fmt::format("topology.groups[{}]", index);
        const int n_experts = config_.model.moe.n_experts;
        if (group.expert_parallel > residents && group.ranks % group.expert_parallel == 0)
            say(path + ".expert_parallel",
                fmt::format("{} shards for the {} experts that '{}' holds of {} ({} would)",
                            group.expert_parallel, residents, group.name, n_experts,
                            divisors(group.ranks, group.expert_parallel,
                                     [&](int64_t d) { return d <= residents; })),
                {path + ".ranks", key, "model.moe.n_experts"});
        const int top_k = config_.model.moe.top_k;
        const bool said =
            std::ranges::find(problems_, "federation.absent", &Problem::path) != problems_.end();
        if (config_.federation.absent == AbsentPolicy::reroute && top_k > residents && !said)
            say("federation.absent",
                fmt::format("reroute needs top_k {} experts in every group, and '{}' holds {} of "
                            "{}; lower model.moe.top_k or give the group more with {}",
                            top_k, group.name, residents, n_experts, key),
                {key, "topology.groups", "model.moe.n_experts", "model.moe.top_k"});
    }
};

}  // namespace

std::vector<Problem> validate(const Config& config) { return Rules(config).all(); }

}  // namespace fomoe
