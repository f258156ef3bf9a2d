#include "eval/document.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace fomoe {

int choose_by_loss(const std::vector<std::span<const float>>& losses) {
    int best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (size_t group = 0; group < losses.size(); ++group) {
        const double sum = std::accumulate(losses[group].begin(), losses[group].end(), 0.0);
        if (sum < least) {
            least = sum;
            best = static_cast<int>(group);
        }
    }
    return best;
}

int choose_by_mass(std::span<const double> mass) {
    return static_cast<int>(std::ranges::max_element(mass) - mass.begin());
}

void add_router_mass(std::span<const float> logits, const Placement& placement, int layer,
                     Range prefix, std::span<double> mass) {
    const int64_t E = placement.n_experts();
    std::vector<double> share(E);
    for (int64_t row = prefix.begin; row < prefix.end; ++row) {
        const std::span<const float> z = logits.subspan(row * E, E);
        const double most = *std::ranges::max_element(z);
        double sum = 0;
        for (int64_t e = 0; e < E; ++e) sum += share[e] = std::exp(z[e] - most);
        for (size_t group = 0; group < mass.size(); ++group)
            for (int e : placement.residents(layer, static_cast<int>(group)))
                mass[group] += share[e] / sum;
    }
}

}  // namespace fomoe
