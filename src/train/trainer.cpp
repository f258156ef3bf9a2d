#include "train/trainer.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory_use.h"
#include "train/plan_check.h"

namespace fomoe {
namespace {

bool keeps_copies(const Config& config) { return config.federation.absent == AbsentPolicy::proxy; }

int64_t memory_now() {
    reset_peak_memory();
    return memory_use().resident_bytes;
}

int64_t first_step(const Config& config, const RunPlan& plan) {
    if (!plan.checkpoint) return 1;
    const Checkpoint checkpoint(*plan.checkpoint);
    return resume_point(checkpoint.manifest(), checkpoint.config(), config).step + 1;
}

}  // namespace

Trainer::Trainer(const Config& config, const RunPlan& plan, Communicator& job,
                 const RankDevice& device, RunHold& hold)
    : config_(config),
      plan_(plan),
      job_(job),
      backend_(device.backend),
      threads_(device.threads),
      hold_(hold),
      limits_(config),
      first_step_(first_step(config, plan)),
      phase_(phase_of(config, first_step_)),
      last_step_(phase_.full_replicas ? phase_.end : config.train.steps),
      world_(config.topology, job.rank(), job.size()),
      placement_(phase_.federation, config.topology, config.model.moe.n_experts),
      all_(all_parameters(config.model, placement_)),
      layout_(arena_layout(all_, placement_, world_)),
      frozen_(keeps_copies(config) ? frozen_layout(all_, placement_, world_) : FrozenLayout{}),
      ranks_(job, world_, device.connect),
      ceiling_(measure_ceiling(job, *ranks_.group.host, backend_, dtype_of(config.train.dtype),
                               threads_.count)),
      memory_before_(memory_now()),
      step_(config_, world_, placement_, layout_, backend_, ranks_,
            keeps_copies(config) ? &frozen_ : nullptr),
      link_(world_, job, config.federation.exchange_timeout),
      frozen_copies_(all_, layout_, frozen_, placement_, world_, link_,
                     *ranks_.expert_replicas.host),
      federation_(phase_.federation, all_, layout_, placement_, world_, link_, *ranks_.group.host,
                  *ranks_.expert_replicas.host, config_.model),
      loader_(config_, world_.group, InnerStep::sequences(config_, world_)),
      report_(config_, world_, placement_, all_, ceiling_, first_step_ - 1),
      saver_(config_, plan_.checkpoints(), job_, backend_, report_) {
    if (config_.federation.inner_state == InnerState::average)
        federation_.average_moments(step_.optimizer());
    if (keeps_copies(config))
        federation_.keep_frozen(frozen_copies_, step_.copies_on_host(), config.federation.refresh);
    if (Probe::wanted(config_)) probe_.emplace(config_, ValidLoader(config_));
    if (config_.federation.evaluate_every > 0)
        evaluation_.emplace(state(), link_, ranks_, backend_);
}

MemoryPlan Trainer::planned_memory() const {
    MemoryPlan plan =
        memory_plan(config_, world_, layout_, keeps_copies(config_) ? &frozen_ : nullptr,
                    plan_threads(), outer_bytes(phase_.federation, federation_.spans(), layout_));
    plan.snapshot = snapshot_bytes(config_, phase_.federation, world_, placement_, layout_,
                                   federation_.spans(), keeps_copies(config_) ? &frozen_ : nullptr);
    if (evaluation_)
        plan.evaluation =
            evaluation_bytes(config_, world_, layout_, evaluation_->copies(), plan_threads());
    return plan;
}

void Trainer::describe(const std::vector<RankPlace>& places) const {
    const ParameterCounts counts = count_parameters(config_.model, all_, layout_.parameters);
    const std::vector<int64_t> tokens = loader_.source_tokens();
    const StartFacts facts{config_, plan_, world_, placement_, counts, places, tokens, ceiling_};
    for (const std::string& line : start_block(facts)) log_info(line);
    if (phases_of(config_).size() > 1) log_info(phase_line(phase_));
    log_info(memory_line(planned_memory(), plan_threads() > 0));
}

void Trainer::start_or_resume() {
    int64_t recorded = MetricsWriter::kNewRun;  // the metrics of this run so far
    if (plan_.checkpoint) {
        const Checkpoint checkpoint(*plan_.checkpoint);
        const ResumePoint point = restore(state(), checkpoint);
        report_.sent() = checkpoint.manifest().bytes;
        if (point.own_state)
            skipped_batches_ = checkpoint.manifest().groups[world_.group].skipped_batches;
        if (plan_.checkpoint->parent_path() == plan_.checkpoints()) recorded = point.step;
        if (recorded >= 0 && point.own_state) saver_.resumed(checkpoint.manifest());
        if (speaks() && !hold_.begun)
            say_what_is_resumed(checkpoint, point, config_, threads_.count, backend_.name());
    } else {
        federation_.start(step_.weights().on_host());
    }
    if (hold_.rollback) skipped_batches_ = hold_.rollback->skipped_batches;
    if (speaks() && !hold_.begun) {
        hold_.lock.emplace(claim_run(plan_));
        set_damaged_aside(plan_);
        refuse_conflicts(plan_.checkpoints(),
                         describe_run(config_, threads_.count, backend_.name()), first_step_ - 1);
        atomic_write_file(plan_.config_file().string(), plan_.saved_config(config_));
    }
    job_.barrier();
    if (!hold_.begun) {
        open_log_file(plan_.log_file(world_.rank).string());
        hold_.timer = Timer();
    }
    hold_.begun = true;
    if (world_.local_rank == 0) {
        const std::string& group = world_.own().name;
        report_.write_to(
            std::make_unique<MetricsWriter>(plan_.metrics_file(group).string(), group, recorded));
        StartMetrics start = start_metrics(
            config_, world_, placement_, count_parameters(config_.model, all_, layout_.parameters),
            std::string(backend_.name()));
        start.step = first_step_ - 1;
        start.resumed = plan_.checkpoint.has_value();
        report_.metrics()->start(start);
        if (plan_.checkpoint)
            report_.metrics()->note(start.step,
                                    concat("goes on from ", plan_.checkpoint->string()));
        if (hold_.rollback) report_.metrics()->note(start.step, hold_.rollback->why);
    }
}

void Trainer::enter_phase(int64_t step) {
    phase_ = phase_of(config_, step);
    federation_.follow(phase_.federation);
    report_.note(step - 1, phase_line(phase_));
}

// Returns whether some rank of the federation was asked to stop.
bool Trainer::round(int64_t step, const Classes& due, bool stop) {
    hold_.activity.at(fmt::format("round behind step {}", step), limits_.round);
    report_.round_begins(step);
    std::vector<double> router_entropy;
    RoundInput input{.step = step, .due = due, .stop = stop};
    if (config_.federation.inner_state == InnerState::average)
        input.moments = step == config_.train.steps
                            ? kAllMoments
                            : moments_due(phase_.federation, step - phase_.begin);
    if (probe_) {
        input.probe = probe_->choices(step_.transformer());
        const bool own_only = config_.federation.absent == AbsentPolicy::reroute;
        if (report_.metrics())
            router_entropy = probe_->router_entropy(step_.transformer(),
                                                    own_only ? &placement_ : nullptr, world_.group);
    }
    RoundResult result;
    step_.weights().change_on_host(federation_.reads(due), [&](Tensor weights) {
        result = federation_.round(weights, input);
        return result.stepped;
    });
    if (result.refreshed) step_.upload_copies();
    if (config_.federation.inner_state == InnerState::reset)
        for (const Range& range : result.stepped) step_.optimizer().restart(range, step);
    if (config_.model.moe.aux_scope == AuxScope::federation && result.committed &&
        due[static_cast<int>(ParamClass::router)]) {
        step_.set_exchanged(federation_.exchanged_choices());
        step_.update_selection_bias(federation_.exchanged_choices());
    }
    report_.round(step, due, result, router_entropy);
    evaluate(step, due, result);
    return result.stop;
}

void Trainer::evaluate(int64_t step, const Classes& due, const RoundResult& result) {
    if (!evaluation_ || !evaluation_->due(result, step)) return;
    hold_.activity.at(fmt::format("evaluation behind step {}", step), limits_.other);
    const EvaluationMetrics metrics = evaluation_->run(result, due, step);
    report_.evaluation(metrics);
    saver_.evaluated(step, metrics.results.union_model->pooled.loss());
}

void Trainer::save(int64_t step, Saver::Write write) {
    hold_.activity.at(fmt::format("checkpoint of step {}", step), limits_.other);
    Manifest about = describe_run(config_, threads_.count, backend_.name());
    about.step = step;
    for (Manifest::Group& group : about.groups) group.step = step;
    about.groups[world_.group].skipped_batches = skipped_batches_;
    about.round = federation_.rounds();
    about.committed = federation_.committed_steps(step);
    about.tokens = tokens_of_steps(config_, step);
    about.bytes = report_.sent();
    saver_.save(state(), about, write);
}

Exit Trainer::run() {
    try {
        return train();
    } catch (const std::exception& error) {
        if (report_.metrics()) report_.metrics()->end(step_now_, "failed", error.what());
        throw;
    }
}

Exit Trainer::train() {
    const std::vector<RankPlace> places = rank_places(job_, threads_);
    if (speaks() && !hold_.rollback) describe(places);
    log(LogLevel::info,
        fmt::format("rank {} is rank {} of {}, process {} on {}, {} threads", world_.rank,
                    world_.local_rank, world_.own().name, getpid(), places[world_.rank].host,
                    threads_.count),
        LogTo::file);
    start_or_resume();
    const int64_t steps = config_.train.steps;
    const bool alone = world_.n_groups() == 1;
    report_.begin();
    bool stop = false;
    int64_t& step = step_now_ = first_step_ - 1;
    while (step < last_step_ && !stop) {
        ++step;
        if (step > phase_.end) enter_phase(step);
        hold_.activity.at(fmt::format("step {}", step), limits_.step);
        const Batch batch = loader_.get(step - 1 + skipped_batches_);
        const Timer timer;
        const StepResult result = step_.run(step, batch, hold_.stop_requested());
        ++hold_.steps_done;
        saver_.poll(step);
        if (result.bad.empty()) {
            report_.step(step, result, step_.load(), timer.seconds());
            federation_.count(result.valid_tokens, step_.load());
        } else {
            report_.bad_step(step, result);
            if (config_.train.bad_step.action == BadStepAction::rollback) {
                rollback_ = go_back(step, result.bad);
                return Exit::done;
            }
        }
        // Groups agree to stop where they meet: at the end of a round.
        const Classes due =
            step == steps ? kAllClasses : classes_due(phase_.federation, step - phase_.begin);
        if (due != Classes{}) stop = round(step, due, hold_.stop_requested());
        stop = stop || (alone && result.stop);
        if (stop || step == last_step_)
            save(step, Saver::Write::now);
        else if (saver_.due(step, alone || due != Classes{}))
            save(step, Saver::Write::behind);
    }
    return end(stop);
}

// The batch of the bad step is the last that is passed over.
Rollback Trainer::go_back(int64_t step, const std::string& why) const {
    const bool saved = saved_step_ >= 0;
    const int64_t to = saved ? saved_step_ : first_step_ - 1;
    Rollback back{.checkpoint = plan_.checkpoint, .skipped_batches = skipped_batches_ + step - to};
    if (saved) back.checkpoint = plan_.checkpoints() / step_directory(saved_step_);
    const bool again = hold_.rollback && hold_.rollback->checkpoint == back.checkpoint;
    back.times = again ? hold_.rollback->times + 1 : 1;
    back.why = fmt::format("went back from step {} to {}, and passes over the batches between: {}",
                           step, to, why);
    if (back.times > config_.train.bad_step.most)
        throw Error(Exit::diverged,
                    fmt::format("step {} of group '{}': {}; the run has come back to step {} {} "
                                "times, which is train.bad_step.most; lower train.optimizer.lr or "
                                "raise warmup, and resume from the last checkpoint",
                                step, world_.own().name, why, to, back.times - 1));
    return back;
}

Exit Trainer::end(bool stopped) {
    const int64_t step = step_now_;
    hold_.activity.at("the end", limits_.other);
    const bool finished = step >= config_.train.steps, last = finished || stopped;
    if (last && hold_.steps_done > 0)
        report_.summary(job_, hold_.steps_done, hold_.timer.seconds());
    const std::vector<RankMemory> memory =
        memory_of_ranks(job_, {.planned = plan_threads() > 0 ? planned_memory().total() : 0,
                               .peak = memory_use().peak_bytes - memory_before_});
    if (last) report_.traffic(step, federation_.rounds());
    if (speaks()) log_info(measured_memory_line(memory));
    if (!last) return Exit::done;  // another placement follows
    if (report_.metrics()) report_.metrics()->end(step, finished ? "done" : "stopped");
    if (speaks())
        log_info(finished ? fmt::format("done at step {}; the run lies in {}", step,
                                        plan_.directory.string())
                          : fmt::format("stopped at step {}; run again to go on", step));
    return finished ? Exit::done : Exit::resumable;
}

}  // namespace fomoe
