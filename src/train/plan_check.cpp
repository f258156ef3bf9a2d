#include "train/plan_check.h"

#include <fmt/format.h>

#include <algorithm>

namespace fomoe {

std::vector<RankMemory> memory_of_ranks(Communicator& job, const RankMemory& own) {
    const int64_t mine[] = {own.planned, own.peak};
    std::vector<int64_t> all(2 * job.size());
    job.all_gather(view(all.data(), Shape(std::ssize(all))), {mine, DType::i64, Shape(2)});
    std::vector<RankMemory> ranks;
    for (size_t i = 0; i < all.size(); i += 2) ranks.push_back({all[i], all[i + 1]});
    return ranks;
}

std::string measured_memory_line(const std::vector<RankMemory>& ranks) {
    const auto ratio = [](const RankMemory& rank) {
        return static_cast<double>(rank.peak) / static_cast<double>(rank.planned);
    };
    std::string line = fmt::format("memory of rank 0: {:.1f} MiB at most above the start",
                                   ranks[0].peak / 1048576.0);
    if (ranks[0].planned == 0) return line;
    line += fmt::format(", {:.2f} of the plan", ratio(ranks[0]));
    if (ranks.size() == 1) return line;
    const auto [least, most] = std::ranges::minmax(ranks, {}, ratio);
    return line + fmt::format("; all ranks {:.2f} to {:.2f}", ratio(least), ratio(most));
}

std::string traffic_line(const Config& config, int64_t step, const TrafficBytes& sent) {
    const int64_t planned = run_traffic(config, step).total_sent(), all = sent.total_sent();
    if (planned == all) return fmt::format("{} bytes between groups, as planned", all);
    return fmt::format("{} bytes between groups, {} planned{}", all, planned,
                       config.federation.evaluate_every > 0 ? " without evaluations" : "");
}

}  // namespace fomoe
