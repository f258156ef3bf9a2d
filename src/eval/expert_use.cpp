#include "eval/expert_use.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "eval/score.h"

namespace fomoe {
namespace {

// Adds the choices of the last pass: counts (layers with experts, E).
void count_choices(const Transformer& transformer, const Batch& batch,
                   const std::vector<int>& layers, std::vector<double>& counts) {
    const int64_t E = transformer.model().moe.n_experts, K = transformer.model().moe.top_k;
    for (size_t l = 0; l < layers.size(); ++l) {
        const std::vector<int32_t> chosen = transformer.chosen_experts(layers[l]);
        for (size_t n = 0; n < batch.targets.size(); ++n)
            for (int64_t k = 0; k < K && batch.targets[n] >= 0; ++k)
                counts[l * E + chosen[n * K + k]] += 1;
    }
}

}  // namespace

ExpertUse expert_use(UnionModel& model, const ValidLoader& data) {
    const Config& config = model.config();
    const int64_t E = config.model.moe.n_experts;
    Communicator& ranks = model.ranks();
    ExpertUse use;
    for (int l = config.model.moe.first_dense_layers; l < config.model.n_layers; ++l)
        use.layers.push_back(l);
    for (int source = 0; source < data.n_sources(); ++source) {
        std::vector<double> counts(use.layers.size() * E, 0);
        for (Range part : runs_of_part(data.n_sequences(source), ranks.size(), ranks.rank(),
                                       model.sequences())) {
            const Batch batch = padded_batch(data, source, part, model.sequences(), config);
            model.transformer().route({.token = batch.tokens,
                                       .target = batch.targets,
                                       .position = batch.positions,
                                       .begin = batch.begin,
                                       .sequence = {}});
            count_choices(model.transformer(), batch, use.layers, counts);
        }
        ranks.all_reduce_sum(view(counts.data(), Shape(std::ssize(counts))));
        for (size_t l = 0; l < use.layers.size(); ++l) {
            const auto begin = counts.begin() + l * E;
            const double all = std::accumulate(begin, begin + E, 0.0);
            std::vector<double>& shares =
                use.shares[data.name(source)].emplace_back(begin, begin + E);
            for (double& share : shares) share /= all;
        }
    }
    return use;
}

std::string ExpertUse::table() const {
    const auto width = [](const std::string& domain) { return std::max<size_t>(8, domain.size()); };
    std::string text = fmt::format("{:>5} {:>6}", "layer", "expert");
    for (const auto& [domain, of] : shares) text += fmt::format(" {:>{}}", domain, width(domain));
    text += '\n';
    const size_t E = layers.empty() || shares.empty() ? 0 : shares.begin()->second[0].size();
    for (size_t l = 0; l < layers.size(); ++l)
        for (size_t e = 0; e < E; ++e) {
            text += fmt::format("{:>5} {:>6}", layers[l], e);
            for (const auto& [domain, of] : shares)
                text += std::isfinite(of[l][e])
                            ? fmt::format(" {:>{}.2f}%", 100 * of[l][e], width(domain) - 1)
                            : fmt::format(" {:>{}}", "-", width(domain));
            text += '\n';
        }
    return text;
}

std::string ExpertUse::json() const {
    return nlohmann::ordered_json{{"layers", layers}, {"domains", shares}}.dump();
}

}  // namespace fomoe
