// Medians of the last good steps.
#include "train/bad_steps.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace fomoe {
namespace {

constexpr double kAny = std::numeric_limits<double>::max();
constexpr size_t kEnough = 16;  // good steps whose median means something

double median(std::vector<float> values) {
    const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
    std::ranges::nth_element(values, middle);
    return *middle;
}

void keep(std::vector<float>& last, double value) {
    if (std::ssize(last) == BadSteps::kKnown) last.erase(last.begin());
    last.push_back(static_cast<float>(value));
}

}  // namespace

BadSteps::BadSteps(const BadStepConfig& config) : config_(config) {}

BadSteps::Sums BadSteps::limits(double valid_tokens) const {
    if (config_.spike == 0 || losses_.size() < kEnough) return {kAny, kAny};
    const double norm = config_.spike * median(norms_);
    return {.loss = std::min(config_.spike * median(losses_) * valid_tokens, kAny),
            .squares = std::min(norm * norm, kAny)};
}

std::string BadSteps::judge(const Sums& sums, double valid_tokens, const std::string& where) {
    const Sums most = limits(valid_tokens);
    const double loss = sums.loss / valid_tokens, grad_norm = std::sqrt(sums.squares);
    const auto spike = [&](const char* what, double value, const std::vector<float>& known) {
        return fmt::format("the {} {:.4g} is {:.3g} times the median of the last {} good steps",
                           what, value, value / median(known), known.size());
    };
    std::string why;
    if (!std::isfinite(sums.loss) || !std::isfinite(sums.squares))
        why = fmt::format("loss {}, gradient norm {}", loss, grad_norm);
    else if (sums.loss > most.loss)
        why = spike("loss", loss, losses_);
    else if (sums.squares > most.squares)
        why = spike("gradient norm", grad_norm, norms_);
    if (why.empty()) {
        in_row_ = 0;
        keep(losses_, loss);
        keep(norms_, grad_norm);
        return why;
    }
    ++in_row_;
    if (config_.action == BadStepAction::stop)
        throw Error(Exit::diverged,
                    fmt::format("{}: {}; lower train.optimizer.lr or raise warmup, or leave such "
                                "steps out with train.bad_step.action: skip, and resume from the "
                                "last checkpoint",
                                where, why));
    if (config_.action == BadStepAction::skip && in_row_ > config_.most)
        throw Error(Exit::diverged,
                    fmt::format("{}: {}; it is bad step number {} in a row, more than "
                                "train.bad_step.most; lower train.optimizer.lr or raise warmup, "
                                "and resume from the last checkpoint",
                                where, why, in_row_));
    return why;
}

std::vector<float> BadSteps::state() const {
    std::vector<float> state(kState);
    state[0] = static_cast<float>(in_row_);
    state[1] = static_cast<float>(losses_.size());
    std::ranges::copy(losses_, state.begin() + 2);
    std::ranges::copy(norms_, state.begin() + 2 + kKnown);
    return state;
}

void BadSteps::set_state(const std::vector<float>& state) {
    const float known = state.at(1);
    if (std::ssize(state) != kState || !(known >= 0 && known <= kKnown))
        throw Error(Exit::data, concat("a checkpoint cannot know ", known, " good steps"));
    in_row_ = static_cast<int64_t>(state[0]);
    losses_.assign(state.begin() + 2, state.begin() + 2 + static_cast<int64_t>(known));
    norms_.assign(state.begin() + 2 + kKnown,
                  state.begin() + 2 + kKnown + static_cast<int64_t>(known));
}

}  // namespace fomoe
