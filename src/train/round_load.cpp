#include "train/round_load.h"

#include <algorithm>
#include <cmath>

namespace fomoe {

RoundLoad::RoundLoad(const Config& config, const Placement& placement, int group)
    : first_layer_(config.model.moe.first_dense_layers),
      n_layers_(config.model.n_layers),
      n_experts_(config.model.moe.n_experts),
      resident_(n_layers_ * n_experts_),
      serves_absent_(config.federation.absent == AbsentPolicy::proxy),
      load_(resident_.size()) {
    for (int l = 0; l < n_layers_; ++l)
        for (int e : placement.residents(l, group)) resident_[l * n_experts_ + e] = true;
    candidate_ = config.federation.absent == AbsentPolicy::reroute
                     ? resident_
                     : std::vector<bool>(resident_.size(), true);
}

void RoundLoad::add(std::span<const float> load) {
    for (size_t i = 0; i < load_.size(); ++i) load_[i] += load[i];
}

LoadByLayer RoundLoad::take() {
    LoadByLayer out;
    for (int l = first_layer_; l < n_layers_; ++l) {
        double all = 0, most = 0, absent = 0, x_log_x = 0;
        int candidates = 0, absent_candidates = 0;
        std::vector<int64_t> executed(n_experts_);
        for (int i = l * n_experts_; i < (l + 1) * n_experts_; ++i) {
            if (!candidate_[i]) continue;
            const double n = load_[i];
            if (resident_[i] || serves_absent_)
                executed[i - l * n_experts_] = static_cast<int64_t>(n);
            all += n;
            most = std::max(most, n);
            if (n > 0) x_log_x += n * std::log(n);
            ++candidates;
            if (resident_[i]) continue;
            absent += n;
            ++absent_candidates;
        }
        const double highest = std::log(candidates);
        out.imbalance.push_back(all > 0 ? most * candidates / all : 0);
        out.entropy.push_back(all == 0      ? 0
                              : highest > 0 ? (std::log(all) - x_log_x / all) / highest
                                            : 1);
        out.executed.push_back(std::move(executed));
        out.skip.push_back(all > 0 ? absent / all : 0);
        out.chance.push_back(double(absent_candidates) / candidates);
    }
    std::ranges::fill(load_, 0.0);
    return out;
}

}  // namespace fomoe
