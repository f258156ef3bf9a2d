// What the keys of train must keep among each other.
#include <fmt/format.h>

#include "config/validate.h"

namespace fomoe {

std::vector<Problem> train_problems(const Config& config) {
    std::vector<Problem> problems;
    const TrainConfig& train = config.train;
    const OptimizerConfig& o = train.optimizer;
    if (o.warmup > train.steps)
        problems.push_back(
            {"train.optimizer.warmup",
             fmt::format("{} is more than the {} steps of the run", o.warmup, train.steps),
             {"train.steps"}});
    if (o.min_lr > o.lr && o.schedule != LrSchedule::constant)
        problems.push_back({"train.optimizer.min_lr",
                            fmt::format("{} is more than lr {}", o.min_lr, o.lr),
                            {"train.optimizer.lr"}});
    const BadStepConfig& bad = train.bad_step;
    if (bad.spike > 0 && bad.spike <= 1)
        problems.push_back({"train.bad_step.spike",
                            fmt::format("{} times the median is no spike; give more than 1, or 0 "
                                        "for no rule",
                                        bad.spike),
                            {}});
    return problems;
}

}  // namespace fomoe
