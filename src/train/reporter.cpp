#include "train/reporter.h"

#include <fmt/format.h>

#include <algorithm>

#include "model/flops.h"
#include "train/plan_check.h"

namespace fomoe {
namespace {

constexpr size_t kLossSteps = 10;  // whose mean is told at the end

}  // namespace

int64_t tokens_of_steps(const Config& config, int64_t steps) {
    return steps * config.train.batch * config.data.seq_len *
           static_cast<int64_t>(config.topology.groups.size());
}

Reporter::Reporter(const Config& config, const World& world, const Placement& placement,
                   const std::vector<Parameter>& all, double ceiling, int64_t done)
    : config_(config),
      world_(world),
      all_(all),
      ceiling_(ceiling),
      done_before_(done),
      round_load_(config, placement, world.group) {}

void Reporter::note(int64_t step, const std::string& text, LogLevel level) {
    if (metrics_) metrics_->note(step, text);
    if (speaks()) log(level, text);
}

StepMetrics Reporter::metrics_of(int64_t step, const StepResult& result) const {
    const double tokens = double(config_.train.batch) * config_.data.seq_len * unreported_;
    const FlopsPerToken flops = flops_per_token(config_.model, config_.data.seq_len);
    const double rate = (flops.always * tokens + flops.per_choice * executed_) / times_.all;
    const double per_step = since_start_.seconds() / (step - done_before_);
    return {
        .step = step,
        .steps = config_.train.steps,
        .loss = result.loss,
        .aux = result.aux,
        .z = result.z,
        .affinity = result.affinity,
        .grad_norm = result.grad_norm,
        .lr = result.lr,
        .tokens_per_second = tokens / times_.all,
        .mfu = rate / (ceiling_ * 1e9),
        .imbalance = result.imbalance,
        .skip = result.skipped,
        .proxy = result.served,
        .data_wait_seconds = times_.data / static_cast<double>(unreported_),
        .eta_seconds = per_step * (config_.train.steps - step),
        .tokens = step * config_.train.batch * config_.data.seq_len,
    };
}

void Reporter::step(int64_t step, const StepResult& result, std::span<const float> load,
                    const StepTimes& times) {
    times_ += times;
    if (result.room.rows > 0)
        note(step,
             fmt::format("step {} was done twice: up to {} rows with {} choices came to a rank "
                         "in a layer, more than train.dispatch_factor had planned; there is "
                         "room for them now",
                         step, result.room.rows, result.room.choices),
             LogLevel::warning);
    // A frozen expert has no gradient of its weights, a third of the work.
    const double choices = result.executed_choices;
    executed_ += choices - choices * result.served / 3;
    ++unreported_;
    round_load_.add(load);
    losses_.push_back(result.loss);
    if (losses_.size() > kLossSteps) losses_.pop_front();
    const std::string& group = world_.own().name;
    const bool due = step % config_.train.log_every == 0 || step == done_before_ + 1 ||
                     step == config_.train.steps;
    if (!due) {
        if (speaks() && live_is_shown()) show_live(live_line(group, metrics_of(step, result)));
        return;
    }
    const StepMetrics metrics = metrics_of(step, result);
    if (speaks())
        log_info(step_line(group, metrics));
    else
        log(LogLevel::info, fmt::format("step {}/{} done", step, config_.train.steps), LogTo::file);
    if (metrics_) metrics_->step(metrics);
    times_ = {};
    executed_ = 0;
    unreported_ = 0;
}

void Reporter::bad_step(int64_t step, const StepResult& result) {
    if (metrics_) metrics_->bad_step(step, result.bad, result.loss, result.grad_norm);
    if (world_.local_rank == 0)
        log_warning(fmt::format("step {} of group '{}' changes nothing: {}", step,
                                world_.own().name, result.bad));
}

void Reporter::round_begins(int64_t step) {
    const std::string which = fmt::format("round behind step {}", step);
    if (speaks())
        show_live(which);
    else
        log(LogLevel::info, which + " begins", LogTo::file);
}

void Reporter::round(int64_t step, const Classes& due, const RoundResult& result,
                     const std::vector<double>& router_entropy) {
    sent_ += result.counted;
    const RoundMetrics metrics{
        .round = result.round,
        .step = step,
        .groups = result.contributed,
        .groups_total = result.groups,
        .classes = due,
        .counted = result.counted,
        .own = result.own,
        .predicted_bytes = result.predicted.total_sent(),
        .seconds = result.seconds,
        .drift = result.drift,
        .cosine = result.cosine,
        .agree = result.agreement,
        .load = round_load_.take(),
        .router_entropy = router_entropy,
        .hash = result.checksum,
        .total = sent_,
        .baselines = baseline_bytes(config_, all_, step),
    };
    if (metrics_) metrics_->round(metrics);
    if (world_.n_groups() == 1) return;
    if (speaks()) log_info(round_line(metrics));
    if (!result.committed)
        note(step,
             fmt::format("round {} changed nothing: {}; the next round starts from the same anchor",
                         result.round, text_of(result.failure, world_)),
             LogLevel::warning);
    else if (result.contributed < result.groups)
        note(step,
             fmt::format("round {}: {} of {} groups did not count", result.round,
                         result.groups - result.contributed, result.groups),
             LogLevel::warning);
}

void Reporter::evaluation(const EvaluationMetrics& metrics) {
    sent_ += metrics.counted;
    if (!metrics.results.union_model)
        return note(metrics.step, fmt::format("the evaluation behind step {} is left out: the run "
                                              "was asked to stop",
                                              metrics.step));
    if (metrics_) metrics_->evaluation(metrics, world_.group);
    if (!speaks()) return;
    std::vector<std::string> groups;
    for (const World::Group& group : world_.groups) groups.push_back(group.name);
    log_info(evaluation_line(groups, metrics));
}

void Reporter::checkpoint(int64_t step, const CheckpointMetrics& metrics) {
    if (metrics_) metrics_->checkpoint(step, metrics);
    if (speaks()) log_info(checkpoint_line(metrics));
}

void Reporter::summary(Communicator& job, int64_t steps_done, double seconds) const {
    double sum = 0;
    for (double loss : losses_) sum += loss;
    const double mean = sum / static_cast<double>(std::max<size_t>(1, losses_.size()));
    std::vector<double> all(world_.n_ranks());
    job.all_gather(view(all.data(), Shape(world_.n_ranks())), view(&mean, Shape(1)));
    if (!speaks()) return;
    EndMetrics done{.steps = steps_done,
                    .tokens = tokens_of_steps(config_, steps_done),
                    .seconds = seconds,
                    .loss_steps = static_cast<int>(losses_.size()),
                    .losses = {}};
    for (const World::Group& group : world_.groups)
        done.losses.emplace_back(group.name, all[group.first_rank]);
    std::ranges::for_each(end_lines(done), log_info);
}

void Reporter::traffic(int64_t step, int64_t rounds) const {
    if (!speaks() || sent_.total_sent() == 0) return;
    log_info(sent_line(rounds, sent_, baseline_bytes(config_, all_, step)));
    log_info(traffic_line(config_, step, sent_));
}

}  // namespace fomoe
