#include "train/trainer.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory_use.h"
#include "config/dump.h"
#include "model/flops.h"
#include "ops/matmul_ceiling.h"
#include "plan/traffic.h"
#include "train/plan_check.h"

namespace fomoe {
namespace {

bool keeps_copies(const Config& config) { return config.federation.absent == AbsentPolicy::proxy; }

std::string mebibytes(double bytes) { return fmt::format("{:.1f} MiB", bytes / 1048576.0); }

int64_t tokens_of_steps(const Config& config, int64_t steps) {
    return steps * config.train.batch * config.data.seq_len *
           static_cast<int64_t>(config.topology.groups.size());
}

// Measured on all ranks at once, since that is how they will run.
double measure_ceiling(Communicator& job, Communicator& group, Backend& backend, DType dtype,
                       int threads) {
    job.barrier();
    double ceiling = matmul_ceiling(backend, dtype, threads);
    group.all_reduce_sum(view(&ceiling, Shape(1)));
    return ceiling;
}

std::string phase_line(const Phase& phase) {
    return fmt::format(
        "from step {}: rounds of {} steps{}", phase.begin + 1, phase.federation.local_steps,
        phase.full_replicas
            ? fmt::format("; every group holds every expert until step {}", phase.end)
            : "");
}

int64_t memory_now() {
    reset_peak_memory();
    return memory_use().resident_bytes;
}

int64_t first_step(const RunPlan& plan) {
    return plan.checkpoint ? read_manifest(*plan.checkpoint).step + 1 : 1;
}

}  // namespace

void check_data(const Config& config) {
    Loader(config, 0, Range{0, 0});
    const ValidLoader valid(config);
    if (Probe::wanted(config)) Probe(config, valid);
}

void check_tokens(const Config& config, int64_t most) {
    Loader(config, 0, Range{0, 0}).check_tokens(most);
    ValidLoader(config).check_tokens(most);
}

Trainer::Trainer(const Config& config, const RunPlan& plan, Communicator& job,
                 const RankDevice& device, RunHold& hold)
    : config_(config),
      plan_(plan),
      job_(job),
      backend_(device.backend),
      threads_(device.threads),
      hold_(hold),
      first_step_(first_step(plan)),
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
      round_load_(config_, placement_, world_.group) {
    if (config_.federation.inner_state == InnerState::average)
        federation_.average_moments(step_.optimizer());
    if (keeps_copies(config))
        federation_.keep_frozen(frozen_copies_, step_.copies_on_host(), config.federation.refresh);
    if (Probe::wanted(config_)) probe_.emplace(config_, ValidLoader(config_));
    if (config_.federation.evaluate_every > 0)
        evaluation_.emplace(state(), link_, ranks_, backend_);
}

MemoryPlan Trainer::planned_memory() const {
    MemoryPlan plan = memory_plan(
        config_, world_, layout_, keeps_copies(config_) ? &frozen_ : nullptr, plan_threads(),
        world_.n_groups() > 1 ? outer_bytes(phase_.federation, federation_.spans(), layout_) : 0);
    if (evaluation_)
        plan.evaluation =
            evaluation_bytes(config_, world_, layout_, evaluation_->copies(), plan_threads());
    return plan;
}

void Trainer::describe() const {
    double parameters = 0, experts = 0;
    for (const Parameter& p : all_) {
        parameters += p.count();
        if (p.cls == ParamClass::expert) experts += p.count();
    }
    const MoeConfig& moe = config_.model.moe;
    log_info(fmt::format("model: {:.2f}M parameters, {:.2f}M active for a token", parameters / 1e6,
                         (parameters - experts + experts * moe.top_k / moe.n_experts) / 1e6));
    for (int g = 0; g < world_.n_groups(); ++g) {
        const World::Group& group = world_.groups[g];
        log_info(
            fmt::format("group {}: ranks {}-{}, expert_parallel {}, {} of {} experts", group.name,
                        group.first_rank, group.first_rank + group.ranks - 1, group.expert_parallel,
                        placement_.residents(config_.model.n_layers - 1, g).size(), moe.n_experts));
    }
    if (phases_of(config_).size() > 1) log_info(phase_line(phase_));
    const int threads = plan_threads();
    const MemoryPlan plan = planned_memory();
    const auto if_any = [](const char* name, int64_t bytes) {
        return bytes > 0 ? fmt::format(", {} {}", name, mebibytes(bytes)) : "";
    };
    const std::string parts =
        fmt::format("weights {}, gradients {}, moments {}, activations {}{}{}{}",
                    mebibytes(plan.weights), mebibytes(plan.gradients), mebibytes(plan.moments),
                    mebibytes(plan.activations), if_any("bf16 weights", plan.rounded),
                    if_any("frozen copies", plan.copies), if_any("evaluation", plan.evaluation));
    if (threads > 0)
        log_info(fmt::format("memory planned for rank 0: {} ({}, scratch {}, outer state {})",
                             mebibytes(plan.total()), parts, mebibytes(plan.scratch),
                             mebibytes(plan.outer)));
    else
        log_info(fmt::format(
            "memory planned for rank 0: {} of the device ({}) beside the scratch of its ops, {} of "
            "the host (outer state {}, weights on their way {})",
            mebibytes(plan.total() - plan.outer), parts, mebibytes(plan.outer + plan.weights),
            mebibytes(plan.outer), mebibytes(plan.weights)));
}

void Trainer::start_or_resume() {
    int64_t recorded = MetricsWriter::kNewRun;  // the metrics of this run so far
    if (plan_.checkpoint) {
        const Checkpoint checkpoint(*plan_.checkpoint);
        restore(state(), checkpoint);
        const int64_t resumed = checkpoint.manifest().step;
        sent_ = checkpoint.manifest().bytes;
        if (plan_.checkpoint->parent_path() == plan_.checkpoints())
            recorded = saved_step_ = resumed;
        if (speaks() && !hold_.lock) {
            log_info(
                fmt::format("resumed from {} at step {}", plan_.checkpoint->string(), resumed));
            for (const std::string& why :
                 bit_changes(checkpoint, config_, threads_.count, backend_.name()))
                log_warning("the bits will not be those of a run that never stopped: " + why);
        }
    } else {
        federation_.start(step_.weights().on_host());
    }
    if (speaks() && !hold_.lock) {
        hold_.lock.emplace(claim_run(plan_));
        refuse_conflicts(plan_.checkpoints(),
                         describe_run(config_, threads_.count, backend_.name()), first_step_ - 1);
        atomic_write_file(plan_.config_file().string(), dump_config(config_));
    }
    job_.barrier();
    if (world_.local_rank == 0) {
        const std::string& group = world_.own().name;
        metrics_ =
            std::make_unique<MetricsWriter>(plan_.metrics_file(group).string(), group, recorded);
        metrics_->start(first_step_ - 1, config_.train.steps, world_.own().ranks);
    }
}

void Trainer::enter_phase(int64_t step) {
    phase_ = phase_of(config_, step);
    federation_.follow(phase_.federation);
    if (speaks()) log_info(phase_line(phase_));
}

void Trainer::report_step(int64_t step, const StepResult& result) {
    const bool due =
        step % config_.train.log_every == 0 || step == first_step_ || step == config_.train.steps;
    if (!due) return;
    const double tokens = double(config_.train.batch) * config_.data.seq_len * unreported_;
    const FlopsPerToken flops = flops_per_token(config_.model, config_.data.seq_len);
    const double rate = (flops.always * tokens + flops.per_choice * executed_) / step_seconds_;
    const double per_step = since_start_.seconds() / (step - first_step_ + 1);
    const StepMetrics metrics{
        .step = step,
        .steps = config_.train.steps,
        .loss = result.loss,
        .aux = result.aux,
        .z = result.z,
        .affinity = result.affinity,
        .grad_norm = result.grad_norm,
        .lr = result.lr,
        .tokens_per_second = tokens / step_seconds_,
        .mfu = rate / (ceiling_ * 1e9),
        .imbalance = result.imbalance,
        .skip = result.skipped,
        .proxy = result.served,
        .eta_seconds = per_step * (config_.train.steps - step),
    };
    if (speaks()) log_info(step_line(world_.own().name, metrics));
    if (metrics_) metrics_->step(metrics);
    step_seconds_ = executed_ = 0;
    unreported_ = 0;
}

// Returns whether some rank of the federation was asked to stop.
bool Trainer::round(int64_t step, const Classes& due, bool stop) {
    RoundInput input{.due = due, .stop = stop};
    if (config_.federation.inner_state == InnerState::average)
        input.moments = step == config_.train.steps
                            ? kAllMoments
                            : moments_due(phase_.federation, step - phase_.begin);
    if (probe_) input.probe = probe_->choices(step_.transformer());
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
    if (world_.n_groups() > 1) report_round(step, due, result);
    evaluate(step, due, result);
    return result.stop;
}

void Trainer::report_round(int64_t step, const Classes& due, const RoundResult& result) {
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
        .hash = result.checksum,
        .total = sent_,
        .baselines = baseline_bytes(config_, all_, step),
    };
    if (metrics_) metrics_->round(metrics);
    if (!speaks()) return;
    log_info(round_line(metrics));
    if (!result.committed)
        log_warning(
            fmt::format("round {} changed nothing: {}; the next round starts from the same anchor",
                        result.round, text_of(result.failure, world_)));
}

void Trainer::evaluate(int64_t step, const Classes& due, const RoundResult& result) {
    if (!evaluation_ || !evaluation_->due(result, step)) return;
    const EvaluationMetrics metrics = evaluation_->run(result, due, step);
    sent_ += metrics.counted;
    if (metrics_) metrics_->evaluation(metrics, world_.group);
    if (!speaks()) return;
    std::vector<std::string> groups;
    for (const World::Group& group : world_.groups) groups.push_back(group.name);
    log_info(evaluation_line(groups, metrics));
}

void Trainer::save(int64_t step) {
    if (step == saved_step_) return;
    const Timer timer;
    Manifest about = describe_run(config_, threads_.count, backend_.name());
    about.step = step;
    for (Manifest::Group& group : about.groups) group.step = step;
    about.round = federation_.rounds();
    about.tokens = tokens_of_steps(config_, step);
    about.bytes = sent_;
    const StateToSave saved = state_to_save(state());
    const std::filesystem::path path = save_checkpoint(
        job_, plan_.checkpoints(), {.about = about, .config = &config_, .sets = saved.sets},
        {.keep = config_.checkpoint.keep});
    saved_step_ = step;
    if (metrics_) metrics_->checkpoint(step, path.string(), timer.seconds());
    if (speaks()) log_info(fmt::format("checkpoint {} | {:.2f} s", path.string(), timer.seconds()));
}

Exit Trainer::run() {
    if (speaks()) describe();
    start_or_resume();
    const int64_t steps = config_.train.steps;
    const bool alone = world_.n_groups() == 1;
    since_start_ = Timer();
    bool stop = false;
    int64_t step = first_step_ - 1;
    while (step < last_step_ && !stop) {
        ++step;
        if (step > phase_.end) enter_phase(step);
        const Batch batch = loader_.get(step - 1);
        const Timer timer;
        const StepResult result = step_.run(step, batch, hold_.stop_requested());
        step_seconds_ += timer.seconds();
        if (speaks() && result.room.rows > 0)
            log_warning(fmt::format(
                "step {} was done twice: up to {} rows with {} choices came to a rank in a layer, "
                "more than train.dispatch_factor had planned; there is room for them now",
                step, result.room.rows, result.room.choices));
        // A frozen expert has no gradient of its weights, a third of the work.
        const double choices = result.executed_choices;
        executed_ += choices - choices * result.served / 3;
        ++unreported_;
        ++steps_done_;
        round_load_.add(step_.load());
        federation_.count(result.valid_tokens, step_.load());
        report_step(step, result);
        // Groups agree to stop where they meet: at the end of a round.
        const Classes due =
            step == steps ? kAllClasses : classes_due(phase_.federation, step - phase_.begin);
        if (due != Classes{}) stop = round(step, due, hold_.stop_requested());
        stop = stop || (alone && result.stop);
        if (stop || step == last_step_ ||
            (config_.checkpoint.every > 0 && step % config_.checkpoint.every == 0))
            save(step);
    }
    const bool finished = step >= steps;
    const std::vector<RankMemory> memory =
        memory_of_ranks(job_, {.planned = plan_threads() > 0 ? planned_memory().total() : 0,
                               .peak = memory_use().peak_bytes - memory_before_});
    if (speaks()) {
        if (sent_.total_sent() > 0 && (finished || stop)) {
            log_info(sent_line(federation_.rounds(), sent_, baseline_bytes(config_, all_, step)));
            if (!evaluation_)
                log_info(traffic_line(run_traffic(config_, step).total_sent(), sent_.total_sent()));
        }
        log_info(memory_line(memory));
    }
    if (!finished && !stop) return Exit::done;  // another placement follows
    if (metrics_) metrics_->end(step, finished ? "done" : "stopped");
    if (speaks())
        log_info(finished ? fmt::format("done at step {}; the run lies in {}", step,
                                        plan_.directory.string())
                          : fmt::format("stopped at step {}; run again to go on", step));
    return finished ? Exit::done : Exit::resumable;
}

}  // namespace fomoe
