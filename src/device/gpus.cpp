#include "device/gpus.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "device/numa.h"

namespace fomoe {
namespace {

std::string counted(size_t n, const char* what) { return concat(n, ' ', what, n == 1 ? "" : "s"); }

// "0", "0 and 1", "0, 1 and 2"
template <class T>
std::string listed(const std::vector<T>& items) {
    std::string text;
    for (size_t i = 0; i < items.size(); ++i)
        text += concat(i == 0 ? "" : i + 1 == items.size() ? " and " : ", ", items[i]);
    return text;
}

// The hosts of some ranks, each once, in rank order.
std::vector<std::string> hosts_of(const GpuJob& job, int first, int count) {
    std::vector<std::string> hosts;
    for (int rank = first; rank < first + count; ++rank)
        if (std::ranges::find(hosts, job.ranks[rank].host) == hosts.end())
            hosts.push_back(job.ranks[rank].host);
    return hosts;
}

std::vector<int> groups_of_ranks(const GpuJob& job) {
    std::vector<int> group(job.ranks.size());
    for (size_t g = 0; g < job.groups.size(); ++g)
        std::fill_n(group.begin() + job.groups[g].first_rank, job.groups[g].ranks, int(g));
    return group;
}

// The ranks of one host, by their index there, and which GPUs each may take, by their place in the
// order of the host's.
class Host {
public:
    Host(const GpuJob& job, std::vector<int> ranks) : job_(job), ranks_(std::move(ranks)) {
        for (int rank : ranks_)
            for (const Gpu& gpu : job.ranks[rank].visible) gpus_.push_back(gpu);
        const auto order = [](const Gpu& gpu) {
            return std::tuple(gpu.numa_node, gpu.address, gpu.identity);
        };
        std::ranges::sort(gpus_, {}, order);
        const auto doubles = std::ranges::unique(gpus_, {}, &Gpu::identity);
        gpus_.erase(doubles.begin(), doubles.end());
        for (int rank : ranks_) {
            std::set<uint64_t> seen;
            for (const Gpu& gpu : job.ranks[rank].visible) seen.insert(gpu.identity);
            choices_.emplace_back();
            for (size_t i = 0; i < gpus_.size(); ++i)
                if (seen.contains(gpus_[i].identity)) choices_.back().push_back(int(i));
        }
    }

    // Why its ranks cannot have a GPU each; empty: they can.
    std::string trouble() const {
        const std::string& name = job_.ranks[ranks_[0]].host;
        if (gpus_.size() < ranks_.size())
            return concat(counted(ranks_.size(), "rank"), " on host ", name, " with ",
                          counted(gpus_.size(), "GPU"));
        std::vector<int> crowd = crowded();
        if (crowd.empty()) return "";
        for (int& index : crowd) index = ranks_[index];
        return concat("ranks ", listed(crowd), " on host ", name, " see only ",
                      counted(crowd.size() - 1, "GPU"), " between them");
    }

    // Leaves every rank one choice, and tells which.
    std::vector<Gpu> decide(const std::vector<int>& groups) {
        keep_to_bound_nodes();
        std::vector<bool> taken(gpus_.size());
        for (size_t i = 0; i < ranks_.size(); ++i) {
            for (int gpu : by_preference(i, groups, taken))
                if (narrow(i, {gpu})) break;
            taken[choices_[i][0]] = true;
        }
        std::vector<Gpu> decided;
        for (const std::vector<int>& choice : choices_) decided.push_back(gpus_[choice[0]]);
        return decided;
    }

private:
    // Finds a GPU for one more rank; others may have to move to another of their choices.
    bool serve(int index, std::vector<int>& holder, std::vector<bool>& asked) const {
        for (int gpu : choices_[index]) {
            if (asked[gpu]) continue;
            asked[gpu] = true;
            if (holder[gpu] >= 0 && !serve(holder[gpu], holder, asked)) continue;
            holder[gpu] = index;
            return true;
        }
        return false;
    }

    // Ranks that have one GPU too few between them; empty where each can have its own.
    std::vector<int> crowded() const {
        std::vector<int> holder(gpus_.size(), -1);
        for (size_t i = 0; i < ranks_.size(); ++i) {
            std::vector<bool> asked(gpus_.size());
            if (serve(int(i), holder, asked)) continue;
            std::vector<int> crowd{int(i)};
            for (size_t gpu = 0; gpu < gpus_.size(); ++gpu)
                if (asked[gpu]) crowd.push_back(holder[gpu]);
            std::ranges::sort(crowd);
            return crowd;
        }
        return {};
    }

    // Cuts the choices of a rank down, unless then somebody would have none.
    bool narrow(size_t index, std::vector<int> to) {
        std::swap(choices_[index], to);
        if (crowded().empty()) return true;
        std::swap(choices_[index], to);
        return false;
    }

    void keep_to_bound_nodes() {
        for (size_t i = 0; i < ranks_.size(); ++i) {
            const int node = job_.ranks[ranks_[i]].numa_node;
            if (node < 0) continue;
            std::vector<int> near;
            for (int gpu : choices_[i])
                if (gpus_[gpu].numa_node < 0 || gpus_[gpu].numa_node == node) near.push_back(gpu);
            narrow(i, near);
        }
    }

    // First those of the node where the group has begun; for its first rank, those of nodes that
    // have room for all its ranks here.
    std::vector<int> by_preference(size_t index, const std::vector<int>& groups,
                                   const std::vector<bool>& taken) const {
        const int group = groups[ranks_[index]];
        const bool begins = index == 0 || groups[ranks_[index - 1]] != group;
        const auto members =
            std::ranges::count_if(ranks_, [&](int rank) { return groups[rank] == group; });
        std::map<int, int> room;  // by node
        for (int gpu : choices_[index]) room[gpus_[gpu].numa_node] += !taken[gpu];
        std::vector<int> order = choices_[index];
        std::ranges::stable_partition(order, [&](int gpu) {
            const int node = gpus_[gpu].numa_node;
            return begins ? room[node] >= members : node == gpus_[choices_[index - 1][0]].numa_node;
        });
        return order;
    }

    const GpuJob& job_;
    std::vector<int> ranks_;  // of the job
    std::vector<Gpu> gpus_;
    std::vector<std::vector<int>> choices_;  // of each rank
};

// In the order of their first ranks.
std::vector<std::vector<int>> ranks_by_host(const GpuJob& job) {
    std::map<std::string, size_t> place;
    std::vector<std::vector<int>> hosts;
    for (size_t rank = 0; rank < job.ranks.size(); ++rank) {
        const auto [at, is_new] = place.try_emplace(job.ranks[rank].host, hosts.size());
        if (is_new) hosts.emplace_back();
        hosts[at->second].push_back(int(rank));
    }
    return hosts;
}

// Whether expert parallelism of this size has tokens travel between hosts.
bool spans_hosts(const GpuJob& job, const World::Group& group, int expert_parallel) {
    for (int local = 0; local < group.ranks; local += expert_parallel)
        if (hosts_of(job, group.first_rank + local, expert_parallel).size() > 1) return true;
    return false;
}

std::string span_warning(const GpuJob& job, const World::Group& group) {
    int fits = group.expert_parallel - 1;
    while (group.ranks % fits != 0 || spans_hosts(job, group, fits)) --fits;
    return concat("group '", group.name, "': with expert_parallel ", group.expert_parallel,
                  " tokens travel between hosts (",
                  listed(hosts_of(job, group.first_rank, group.ranks)), "); ", fits,
                  " would keep them on one");
}

}  // namespace

std::vector<int> assign_gpus(const GpuJob& job) {
    const std::vector<std::vector<int>> hosts = ranks_by_host(job);
    std::vector<std::string> troubles;
    for (const std::vector<int>& ranks : hosts)
        if (const std::string trouble = Host(job, ranks).trouble(); !trouble.empty())
            troubles.push_back(trouble);
    if (!troubles.empty())
        throw Error(Exit::usage,
                    concat(listed(troubles),
                           "; a rank needs a GPU of its own: start fewer ranks on a host, or let "
                           "each see another GPU (CUDA_VISIBLE_DEVICES)"));

    const std::vector<int> groups = groups_of_ranks(job);
    std::vector<int> chosen(job.ranks.size());
    for (const std::vector<int>& ranks : hosts) {
        const std::vector<Gpu> decided = Host(job, ranks).decide(groups);
        for (size_t i = 0; i < ranks.size(); ++i) {
            const std::vector<Gpu>& visible = job.ranks[ranks[i]].visible;
            chosen[ranks[i]] = static_cast<int>(
                std::ranges::find(visible, decided[i].identity, &Gpu::identity) - visible.begin());
        }
    }
    return chosen;
}

std::string gpu_summary(const GpuJob& job, const std::vector<std::string>& names) {
    if (names.size() == 1) return names[0];
    std::vector<std::string> kinds;
    for (const std::string& name : names)
        if (std::ranges::find(kinds, name) == kinds.end()) kinds.push_back(name);
    for (std::string& kind : kinds) kind = concat(std::ranges::count(names, kind), " x ", kind);
    return concat(listed(kinds), " on ", counted(ranks_by_host(job).size(), "host"));
}

std::vector<std::string> gpu_table(const GpuJob& job, const std::vector<int>& chosen) {
    const std::vector<int> groups = groups_of_ranks(job);
    std::vector<std::string> lines;
    for (size_t rank = 0; rank < job.ranks.size(); ++rank) {
        const GpuRank& at = job.ranks[rank];
        const Gpu& gpu = at.visible[chosen[rank]];
        lines.push_back(concat("rank ", rank, " (group ", job.groups[groups[rank]].name, "): host ",
                               at.host, ", GPU ", pci_name(gpu.address), ", NUMA node ",
                               gpu.numa_node < 0 ? "unknown" : std::to_string(gpu.numa_node)));
    }
    return lines;
}

std::vector<std::string> gpu_warnings(const GpuJob& job, const std::vector<int>& chosen) {
    std::vector<std::string> warnings;
    const auto gpu = [&](int rank) -> const Gpu& { return job.ranks[rank].visible[chosen[rank]]; };
    for (const World::Group& group : job.groups) {
        if (spans_hosts(job, group, group.expert_parallel))
            warnings.push_back(span_warning(job, group));
        std::set<int> capabilities;
        for (int rank = group.first_rank; rank < group.first_rank + group.ranks; ++rank)
            capabilities.insert(gpu(rank).capability);
        std::vector<std::string> texts;
        for (int each : capabilities) texts.push_back(concat(each / 10, '.', each % 10));
        if (texts.size() > 1)
            warnings.push_back(concat("group '", group.name, "' has GPUs of compute capability ",
                                      listed(texts), ": its steps take as long as the slowest"));
    }
    std::vector<int> apart;
    for (size_t rank = 0; rank < job.ranks.size(); ++rank) {
        const int bound = job.ranks[rank].numa_node, node = gpu(int(rank)).numa_node;
        if (bound >= 0 && node >= 0 && bound != node) apart.push_back(int(rank));
    }
    if (!apart.empty())
        warnings.push_back(concat(apart.size() == 1 ? "rank " : "ranks ", listed(apart),
                                  apart.size() == 1 ? " is" : " are",
                                  " bound to cores of another NUMA node than that of the GPU"));
    return warnings;
}

}  // namespace fomoe
