#include "train/calibration.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.h"
#include "plan/memory.h"

namespace fomoe {
namespace {

// The run's config with what differs in a calibration: nothing is absent, the rate falls from
// calibration.lr linearly, to 0 behind the last step, and rounds average.
Config calibrating(const Config& run) {
    Config config = run;
    OptimizerConfig& optimizer = config.train.optimizer;
    config.train.steps = run.calibration.steps + 1;
    config.train.bad_step = {};
    optimizer.warmup = 1;
    optimizer.lr = run.calibration.lr;
    optimizer.min_lr = 0;
    optimizer.schedule = LrSchedule::linear;
    for (ClassOptimizerConfig* cls : {&optimizer.shared, &optimizer.router}) cls->lr_scale = 1;

    if (config.model.moe.aux_scope != AuxScope::sequence)
        config.model.moe.aux_scope = AuxScope::group;

    FederationConfig federation;
    federation.placement = run.federation.placement;
    federation.replication = run.federation.replication;
    federation.absent = AbsentPolicy::proxy;
    federation.local_steps = run.calibration.local_steps;
    for (OuterConfig* outer :
         {&federation.outer, &federation.shared, &federation.router, &federation.expert})
        outer->optimizer = OuterKind::average;
    federation.reject_above = run.federation.reject_above;
    federation.exchange_timeout = run.federation.exchange_timeout;
    config.federation = federation;
    return config;
}

std::vector<Parameter> trained_only(std::vector<Parameter> all) {
    std::erase_if(all, [](const Parameter& p) { return !p.trained; });
    return all;
}

bool is_scale(const Parameter& p) { return p.layer >= 0 && p.name == routed_scale_name(p.layer); }

ArenaLayout without_scales(ArenaLayout layout) {
    std::erase_if(layout.parameters, is_scale);
    return layout;
}

std::filesystem::path start_of(const RunPlan& plan) {
    const std::optional<std::filesystem::path> newest = newest_checkpoint(plan.directory);
    FOMOE_CHECK(newest || plan.checkpoint, "a run without a checkpoint is calibrated");
    return newest ? *newest : *plan.checkpoint;
}

std::string mebibytes(int64_t bytes) {
    return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

Calibration::Calibration(const Config& config, const RunPlan& plan, Communicator& job,
                         const RankDevice& device)
    : run_(config),
      config_(calibrating(config)),
      plan_(plan),
      job_(job),
      threads_(device.threads),
      plan_threads_(device.backend.host_memory() ? device.threads.count : 0),
      world_(config.topology, job.rank(), job.size()),
      placement_(config.federation, config.topology, config.model.moe.n_experts),
      all_(calibrated_parameters(config.model, placement_, config.calibration.weights)),
      layout_(arena_layout(all_, placement_, world_)),
      model_(without_scales(layout_)),
      frozen_(frozen_layout(all_, placement_, world_)),
      ranks_(job, world_, device.connect),
      checkpoint_(start_of(plan)),
      step_(config_, world_, placement_, layout_, device.backend, ranks_, &frozen_),
      link_(world_, job, config.federation.exchange_timeout),
      copies_(all_, layout_, frozen_, placement_, world_, link_, *ranks_.expert_replicas.host),
      federation_(config_.federation, trained_only(all_), layout_, placement_, world_, link_,
                  *ranks_.group.host, *ranks_.expert_replicas.host, config_.model),
      loader_(config_, world_.group, InnerStep::sequences(config_, world_)),
      trained_steps_(checkpoint_.manifest().step) {}

void Calibration::start() {
    const std::filesystem::path target = directory(plan_);
    if (speaks() && std::filesystem::exists(target) &&
        !std::filesystem::exists(target / Manifest::kFile))
        throw Error(Exit::data, concat(target.string(),
                                       " is not a calibrated model; nothing was overwritten: move "
                                       "it away"));
    job_.barrier();
    step_.weights().change_on_host(
        [&](Tensor weights) { load_union(checkpoint_, model_, weights); });
    federation_.start(step_.weights().on_host());
    take_copies();
    if (speaks()) describe();
    if (world_.local_rank == 0) {
        const std::string& group = world_.own().name;
        metrics_ = std::make_unique<MetricsWriter>(plan_.metrics_file(group).string(), group,
                                                   trained_steps_);
    }
}

void Calibration::take_copies() {
    const std::vector<bool> senders(world_.n_groups(), true);
    copies_.exchange(step_.weights().on_host(), step_.copies_on_host(), senders);
    step_.upload_copies();
    for (const TrafficBytes& bytes : copies_.predict(senders))
        predicted_bytes_ += bytes.total_sent();
}

void Calibration::describe() const {
    int64_t weights = 0, scales = 0;
    for (const Parameter& p : trained_only(all_)) (is_scale(p) ? scales : weights) += p.count();
    const bool router = config_.calibration.weights == CalibratedWeights::router;
    const MemoryPlan plan =
        memory_plan(config_, world_, layout_, &frozen_, plan_threads_, federation_.bytes());
    log_info(
        fmt::format("calibration of {} for {} steps: {} ({} weights) and {} scales of layers | "
                    "copies of absent experts {}, memory planned for rank 0 {}",
                    checkpoint_.directory().string(), config_.calibration.steps,
                    router ? "routers and norm gains" : "all weights but the experts",
                    short_count(static_cast<double>(weights)), scales, mebibytes(plan.copies),
                    mebibytes(plan.total())));
}

// The advice of a training step does not fit here.
StepResult Calibration::take_step(int64_t step, bool stop) {
    const Batch batch = loader_.get(trained_steps_ + step - 1);
    try {
        return step_.run(step, batch, stop);
    } catch (const Error& error) {
        if (error.exit != Exit::diverged) throw;
        throw Error(Exit::diverged,
                    concat("calibration step ", step, " of group '", world_.own().name,
                           "': the loss or its gradient is not finite, and nothing was written; "
                           "lower calibration.lr and run again"));
    }
}

void Calibration::report_step(int64_t step, const StepResult& result) {
    const int64_t steps = config_.calibration.steps;
    if (step == 1) first_loss_ = result.loss;
    last_loss_ = result.loss;
    if (step % config_.train.log_every != 0 && step != 1 && step != steps) return;
    const CalibrationStepMetrics metrics{
        .step = trained_steps_,
        .calibration_step = step,
        .steps = steps,
        .loss = result.loss,
        .grad_norm = result.grad_norm,
        .lr = result.lr,
    };
    if (speaks()) log_info(calibration_step_line(world_.own().name, metrics));
    if (metrics_) metrics_->calibration_step(metrics);
}

void Calibration::round(int64_t step) {
    RoundResult result;
    step_.weights().change_on_host([&](Tensor weights) {
        result = federation_.round(weights, {.met = world_.n_groups() > 1});
    });
    predicted_bytes_ += result.predicted.total_sent();
    if (result.committed) return;
    if (step == config_.calibration.steps)
        throw Error(
            result.failure.kind == FailureKind::damaged ? Exit::communication : Exit::diverged,
            concat("the last round of the calibration changed nothing, and nothing was "
                   "written: ",
                   text_of(result.failure, world_),
                   "; run again, with a lower calibration.lr if values are not finite"));
    if (speaks())
        log_warning(fmt::format("calibration {}: the round changed nothing: {}", step,
                                text_of(result.failure, world_)));
}

// A scale of the gates is one of what the experts put out.
void Calibration::fold_scales() {
    step_.weights().change_on_host([&](Tensor weights) {
        float* values = weights.as<float>();
        std::vector<float> scale(config_.model.n_layers, 1.0f);
        for (const Parameter& p : layout_.parameters)
            if (is_scale(p)) scale[p.layer] = values[p.offset];
        for (const Parameter& p : layout_.parameters)
            if (p.cls == ParamClass::expert && p.name.ends_with(".down_proj.weight"))
                for (int64_t i = 0; i < p.count(); ++i) values[p.offset + i] *= scale[p.layer];
    });
}

void Calibration::save() {
    fold_scales();
    const Manifest& before = checkpoint_.manifest();
    Manifest about = describe_run(run_, threads_.count);
    about.step = before.step;
    about.round = before.round;
    about.tokens = before.tokens + config_.calibration.steps * config_.train.batch *
                                       config_.data.seq_len * world_.n_groups();
    for (Manifest::Group& group : about.groups) group.step = before.step;
    const TensorSet model{
        .directory = kModelDirectory,
        .tensors = model_tensors(all_parameters(config_.model, placement_)),
        .pieces = union_shares(model_, placement_, world_, to_save(step_.weights().on_host()))};
    replace_checkpoint(job_, directory(plan_),
                       {.about = about,
                        .config = &run_,
                        .sets = {model},
                        .tokenizer = tokenizer_of(checkpoint_.directory() / kModelDirectory)});
}

CalibrationMetrics Calibration::metrics_of_all() {
    std::array<int64_t, kTraffic> sent = link_.ledger().total().sent;
    job_.all_reduce_sum(view(sent.data(), Shape(kTraffic)));
    const auto of = [&](Traffic traffic) { return sent[static_cast<int>(traffic)]; };
    return {.step = trained_steps_,
            .steps = config_.calibration.steps,
            .first_loss = first_loss_,
            .last_loss = last_loss_,
            .copies_bytes = of(Traffic::copies),
            .router_bytes = of(Traffic::router),
            .shared_bytes = of(Traffic::shared),
            .control_bytes = of(Traffic::control),
            .predicted_bytes = predicted_bytes_,
            .seconds = since_start_.seconds(),
            .path = directory(plan_).string()};
}

Exit Calibration::run(StopRequests& stop, uint64_t& meetings) {
    Meeting meeting(
        world_, link_, [&stop] { return stop.asked(); }, run_.federation.exchange_timeout,
        meetings);
    start();
    const int64_t steps = config_.calibration.steps;
    for (int64_t step = 1; step <= steps; ++step) {
        const StepResult result = take_step(step, meeting.called());
        report_step(step, result);
        const bool due = step % config_.calibration.local_steps == 0 || step == steps;
        const bool called = result.stop && step < steps;
        if (!due && !called) continue;
        if (meeting.meet(called ? Purpose::adjourn : Purpose::round) != Purpose::adjourn) {
            round(step);
            continue;
        }
        stop.served();
        if (speaks())
            log_info(
                fmt::format("calibration stopped at {}/{}; nothing was written, and run "
                            "again it begins anew",
                            step, steps));
        return Exit::resumable;
    }
    save();
    const CalibrationMetrics metrics = metrics_of_all();
    if (metrics_) metrics_->calibration_end(metrics);
    if (speaks()) log_info(calibration_line(metrics));
    return Exit::done;
}

}  // namespace fomoe
