#include "train/trainer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

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

Standing standing_of(const Config& config, const RunPlan& plan, const std::string& name) {
    Standing standing;
    if (!plan.checkpoint) return standing;
    const Checkpoint checkpoint(*plan.checkpoint);
    const ResumePoint point = resume_point(checkpoint.manifest(), checkpoint.config(), config);
    standing.step = standing.farthest = point.step;
    if (!point.own_state) return standing;
    for (const Manifest::Group& group : checkpoint.manifest().groups) {
        standing.farthest = std::max(standing.farthest, group.step);
        if (group.name != name) continue;
        standing.step = group.step;
        standing.round_pending = group.round_pending;
        standing.skipped_batches = group.skipped_batches;
    }
    return standing;
}

// A pending round is one of the phase that its step is in.
Phase phase_at(const Config& config, const Standing& standing) {
    return phase_of(config, standing.step + (standing.round_pending ? 0 : 1));
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
      world_(config.topology, job.rank(), job.size()),
      start_(standing_of(config, plan, world_.own().name)),
      phase_(phase_at(config, start_)),
      last_step_(phase_.full_replicas ? phase_.end : config.train.steps),
      placement_(phase_.federation, config.topology, config.model.moe.n_experts),
      all_(all_parameters(config.model, placement_)),
      layout_(arena_layout(all_, placement_, world_)),
      frozen_(keeps_copies(config) ? frozen_layout(all_, placement_, world_) : FrozenLayout{}),
      ranks_(job, world_, device.connect),
      ceiling_(measure_ceiling(job, *ranks_.group.host, backend_, dtype_of(config.train.dtype),
                               threads_)),
      memory_before_(memory_now()),
      step_(config_, world_, placement_, layout_, backend_, ranks_,
            keeps_copies(config) ? &frozen_ : nullptr),
      link_(world_, job, config.federation.exchange_timeout),
      frozen_copies_(all_, layout_, frozen_, placement_, world_, link_,
                     *ranks_.expert_replicas.host),
      federation_(phase_.federation, all_, layout_, placement_, world_, link_, *ranks_.group.host,
                  *ranks_.expert_replicas.host, config_.model),
      loader_(config_, world_.group, InnerStep::sequences(config_, world_)),
      report_(config_, world_, placement_, all_, ceiling_, start_.step),
      saver_(config_, plan_.checkpoints(), job_, backend_, report_),
      meeting_(
          world_, link_, [&hold] { return hold.stop.asked(); }, config.federation.exchange_timeout,
          hold.meetings),
      step_now_(start_.step),
      round_pending_(start_.round_pending),
      last_checkpoint_(plan.checkpoint),
      last_saved_step_(start_.step),
      skipped_batches_(hold.rollback ? hold.rollback->skipped_batches : start_.skipped_batches) {
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
    const StartFacts facts{config_, plan_,  world_, placement_,
                           counts,  places, tokens, loader_.epochs(config_.train.steps),
                           ceiling_};
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
        if (config_.model.from_hf.empty())
            saver_.use(tokenizer_of(checkpoint.directory() / kModelDirectory));
        if (plan_.checkpoint->parent_path() == plan_.checkpoints()) recorded = start_.step;
        if (recorded >= 0 && point.own_state) {
            saver_.resumed(checkpoint.manifest());
            saved_where_ = where_groups_stand(checkpoint.manifest());
        }
        if (speaks() && !hold_.begun)
            say_what_is_resumed(checkpoint, point, config_, threads_.count, backend_.name());
    } else {
        std::optional<SourceModel> source;
        if (!config_.model.from_hf.empty()) source.emplace(config_.model);
        if (speaks() && source) log_info(source->text());
        start_anew(state(), source);
    }
    if (speaks() && !hold_.begun) {
        hold_.lock.emplace(claim_run(plan_));
        set_damaged_aside(plan_);
        refuse_conflicts(plan_.checkpoints(),
                         describe_run(config_, threads_.count, backend_.name()), start_.step);
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
        report_.write_to(std::make_unique<MetricsWriter>(plan_.metrics_file(group).string(), group,
                                                         recorded, round_pending_));
        StartMetrics start = start_metrics(
            config_, world_, placement_, count_parameters(config_.model, all_, layout_.parameters),
            std::string(backend_.name()));
        const std::vector<double> epochs = loader_.epochs(config_.train.steps);
        for (size_t i = 0; const auto& [name, prefix] : config_.data.sources)
            start.epochs[name] = epochs[i++];
        start.step = start_.step;
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

void Trainer::round(int64_t step, const Classes& due) {
    hold_.activity.at(fmt::format("round behind step {}", step), limits_.round);
    const Timer timer;
    report_.round_begins(step);
    std::vector<double> router_entropy;
    RoundInput input{.step = step, .due = due, .met = world_.n_groups() > 1};
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
    hold_.stop.round_took(timer.seconds());
}

void Trainer::evaluate(int64_t step, const Classes& due, const RoundResult& result) {
    if (!evaluation_ || !evaluation_->due(result, step)) return;
    hold_.activity.at(fmt::format("evaluation behind step {}", step), limits_.other);
    const EvaluationMetrics metrics = evaluation_->run(result, due, step, [&] {
        return step < config_.train.steps && meeting_.called();  // the last one would be missed
    });
    report_.evaluation(metrics);
    if (metrics.results.union_model)
        saver_.evaluated(step, metrics.results.union_model->pooled.loss());
}

// Collective over the job.
void Trainer::save(Saver::Write write) {
    hold_.activity.at(fmt::format("checkpoint of step {}", step_now_), limits_.other);
    constexpr int64_t kFacts = 3;
    const int64_t mine[] = {step_now_, round_pending_, skipped_batches_};
    std::vector<int64_t> all(kFacts * job_.size());
    job_.all_gather(view(all.data(), Shape(std::ssize(all))), {mine, DType::i64, Shape(kFacts)});

    Manifest about = describe_run(config_, threads_.count, backend_.name());
    for (int group = 0; group < world_.n_groups(); ++group) {
        const int64_t* facts = &all[kFacts * world_.groups[group].first_rank];
        about.groups[group].step = facts[0];
        about.groups[group].round_pending = facts[1] != 0;
        about.groups[group].skipped_batches = facts[2];
        about.tokens += tokens_of_steps(config_, facts[0]) / world_.n_groups();
    }
    about.step = about.groups[0].step;
    about.round = federation_.rounds();
    about.committed = federation_.committed_steps(
        std::ranges::min(about.groups, {}, &Manifest::Group::step).step);
    about.bytes = report_.sent();
    saved_where_ = where_groups_stand(about);
    saver_.save(state(), about, write);
    last_checkpoint_ = plan_.checkpoints() / step_directory(about.step);
    last_saved_step_ = step_now_;
    if (saver_.last_seconds() > 0) hold_.stop.save_took(saver_.last_seconds());
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
    if (stopped_at_start()) return Exit::resumable;
    report_.begin();
    bool stopped = false;
    while (!stopped && (round_pending_ || step_now_ < last_step_)) {
        const std::optional<Purpose> asks = round_pending_ ? std::nullopt : take_step();
        const Classes due = due_at(step_now_);
        round_pending_ = due != Classes{};
        bool saves = saves_at(step_now_);
        if (asks || round_pending_ || saves) {
            hold_.activity.at(fmt::format("meeting behind step {}", step_now_), limits_.round);
            const Purpose all =
                meeting_.meet(asks.value_or(round_pending_ ? Purpose::round : Purpose::checkpoint));
            if (all == Purpose::go_back) {
                rollback_ = go_back();
                return Exit::done;
            }
            stopped = all == Purpose::adjourn;
        }
        const bool together = !stopped && (round_pending_ || world_.n_groups() == 1);
        if (!stopped && round_pending_) {
            round(step_now_, due);
            round_pending_ = false;
        }
        if (config_.checkpoint.every.seconds > 0) saves = saver_.due(step_now_, together);
        if (stopped) hold_.stop.served();
        if (const std::string why = hold_.stop.why(); stopped && speaks() && !why.empty())
            log_info(why + ": saving");
        if (stopped || step_now_ == last_step_)
            save(Saver::Write::now);
        else if (saves)
            save(Saver::Write::behind);
    }
    return end(stopped);
}

// Behind what may take long before the first step; then nothing is lost.
bool Trainer::stopped_at_start() {
    int64_t asked = hold_.stop.asked();
    job_.all_reduce_max(view(&asked, Shape(1)));
    if (!asked) return false;
    hold_.stop.served();
    if (report_.metrics()) report_.metrics()->end(step_now_, "stopped");
    if (speaks()) log_info("stopped before the first step; run again to go on");
    return true;
}

// Returns what the group is to meet the others for, beside what stands in the plan.
std::optional<Purpose> Trainer::take_step() {
    const int64_t step = ++step_now_;
    if (step > phase_.end) enter_phase(step);
    hold_.activity.at(fmt::format("step {}", step), limits_.step);
    const Batch batch = loader_.get(step - 1 + skipped_batches_);
    const Timer timer;
    const StepResult result = step_.run(step, batch, meeting_.called());
    hold_.stop.step_took(timer.seconds());
    ++hold_.steps_done;
    hold_.times += {batch.wait_seconds + timer.seconds(), batch.wait_seconds};
    saver_.poll(step);
    bad_ = result.bad;
    if (bad_.empty()) {
        report_.step(step, result, step_.load(),
                     {batch.wait_seconds + timer.seconds(), batch.wait_seconds});
        federation_.count(result.valid_tokens, step_.load());
    } else {
        report_.bad_step(step, result);
        if (config_.train.bad_step.action == BadStepAction::rollback) return Purpose::go_back;
    }
    return result.stop ? std::optional(Purpose::adjourn) : std::nullopt;
}

// The batch of the bad step is the last that its group passes over; the others train on the same
// once more.
Rollback Trainer::go_back() {
    saver_.finish(step_now_);
    const bool again = hold_.rollback && hold_.rollback->checkpoint == last_checkpoint_;
    Rollback back{.checkpoint = last_checkpoint_,
                  .skipped_batches = skipped_batches_,
                  .times = again ? hold_.rollback->times + 1 : 1};
    back.why = fmt::format("went back from step {} to {}", step_now_, last_saved_step_);
    if (bad_.empty()) {
        back.why += " with a group that had a bad step";
    } else {
        back.why += ", and passes over the batches between: " + bad_;
        back.skipped_batches += step_now_ - last_saved_step_;
    }
    if (back.times > config_.train.bad_step.most)
        throw Error(Exit::diverged,
                    fmt::format("step {}: {}; the run has come back to step {} {} times, which is "
                                "train.bad_step.most; lower train.optimizer.lr or raise warmup, "
                                "and resume from the last checkpoint",
                                step_now_, bad_.empty() ? "another group had a bad step" : bad_,
                                last_saved_step_, back.times - 1));
    return back;
}

Classes Trainer::due_at(int64_t step) const {
    return step == config_.train.steps ? kAllClasses
                                       : classes_due(phase_.federation, step - phase_.begin);
}

// Where there is no round, only if no group has been farther: all meet for a checkpoint.
bool Trainer::saves_at(int64_t step) const {
    const int64_t every = config_.checkpoint.every.steps;
    return every > 0 && step % every == 0 && (step > start_.farthest || due_at(step) != Classes{});
}

Exit Trainer::end(bool stopped) {
    hold_.activity.at("the end", limits_.other);
    const int64_t step = step_now_;
    const bool finished = step >= config_.train.steps && !stopped, last = finished || stopped;
    if (last && hold_.steps_done > 0)
        report_.summary(job_, hold_.steps_done, hold_.timer.seconds());
    const std::vector<RankMemory> memory =
        memory_of_ranks(job_, {.planned = plan_threads() > 0 ? planned_memory().total() : 0,
                               .peak = memory_use().peak_bytes - memory_before_});
    if (last) report_.traffic(round_pending_ ? step - 1 : step, federation_.rounds());
    if (speaks()) log_info(measured_memory_line(memory));
    if (!last) return Exit::done;  // another placement follows
    if (report_.metrics()) report_.metrics()->end(step, finished ? "done" : "stopped");
    if (speaks())
        log_info(finished ? fmt::format("done at step {}; the run lies in {}", step,
                                        plan_.directory.string())
                          : fmt::format("stopped at {}; run again to go on", saved_where_));
    return finished ? Exit::done : Exit::resumable;
}

}  // namespace fomoe
