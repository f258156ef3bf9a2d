#include "federation/baselines.h"

#include <algorithm>

#include "config/phases.h"

namespace fomoe {
namespace {

int64_t exchanged(const Parameter& p, int64_t owners, Counting counting) {
    const int64_t bytes = 4 * p.count();
    return counting == Counting::sent ? 2 * (owners - 1) * bytes : owners * bytes;
}

}  // namespace

int64_t exchange_bytes(const std::vector<Parameter>& all, Counting counting) {
    int64_t bytes = 0;
    for (const Parameter& p : all) bytes += exchanged(p, std::ssize(p.owners), counting);
    return bytes;
}

int64_t full_exchange_bytes(const std::vector<Parameter>& all, int n_groups, Counting counting) {
    int64_t bytes = 0;
    for (const Parameter& p : all) bytes += exchanged(p, n_groups, counting);
    return bytes;
}

BaselineBytes baseline_bytes(const Config& config, const std::vector<Parameter>& all,
                             int64_t step) {
    int64_t rounds = 0;
    for (const Phase& phase : phases_of(config)) {
        const int64_t done = std::min(step, phase.end) - phase.begin;
        if (done <= 0) break;
        rounds += done / phase.federation.local_steps;
        const bool out_of_turn = step == config.train.steps && step <= phase.end &&
                                 done % phase.federation.local_steps != 0;
        rounds += out_of_turn ? 1 : 0;
    }
    const double bytes = static_cast<double>(
        full_exchange_bytes(all, static_cast<int>(config.topology.groups.size()), Counting::sent));
    return {.data_parallel = step * bytes, .full_replicas = rounds * bytes};
}

}  // namespace fomoe
