#include "train/saver.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>

#include "base/log.h"

namespace fomoe {
namespace {

// A run that fails may still have a good checkpoint on its way.
constexpr std::chrono::seconds kLastChance{10};

}  // namespace

Saver::Saver(const Config& config, std::filesystem::path directory, Communicator& job,
             Backend& backend, Reporter& report)
    : config_(config.checkpoint),
      directory_(std::move(directory)),
      job_(job),
      report_(report),
      options_{
          .keep = {.newest = config_.keep, .every = config_.keep_every, .best = config_.keep_best}},
      tokenizer_(tokenizer_of(config.model)),
      snapshot_(backend) {
    if (config_.writes_behind()) background_ = job.background(given_up_.get_token());
}

Saver::~Saver() {
    if (writing_.valid() && writing_.wait_for(kLastChance) != std::future_status::ready)
        given_up_.request_stop();
}

void Saver::resumed(const Manifest& manifest) {
    saved_step_ = manifest.step;
    saved_groups_ = manifest.groups;
}

void Saver::evaluated(int64_t step, double loss) {
    evaluated_step_ = std::isfinite(loss) ? step : -1;
    valid_loss_ = loss;
}

bool Saver::due(int64_t step, bool met) {
    if (config_.every.seconds <= 0)
        return config_.every.steps > 0 && step % config_.every.steps == 0;
    if (!met) return false;
    int64_t due = since_.seconds() >= config_.every.seconds;
    job_.broadcast(view(&due, Shape(1)), 0);
    return due != 0;
}

void Saver::save(const RunState& run, Manifest about, Write write) {
    if (about.step == saved_step_ && about.groups == saved_groups_) return finish(about.step);
    since_ = Timer();
    if (report_.speaks()) show_live(fmt::format("checkpoint of step {}", about.step));
    finish(about.step);
    if (evaluated_step_ == about.step) about.valid_loss = valid_loss_;
    saved_step_ = about.step;
    saved_groups_ = about.groups;
    last_ = {.path = directory_ / step_directory(about.step)};

    StateToSave saved = state_to_save(run);
    CheckpointState state{.about = std::move(about),
                          .config = &run.config,
                          .sets = std::move(saved.sets),
                          .tokenizer = tokenizer_};
    if (background_ && write == Write::behind) {
        snapshot_.take(state.sets);
        writing_ = std::async(std::launch::async, [this, state = std::move(state)] {
            const Timer timer;
            save_checkpoint(*background_, directory_, state, options_);
            return timer.seconds();
        });
        last_.stall_seconds = since_.seconds();
        return;
    }
    save_checkpoint(job_, directory_, state, options_);
    last_.stall_seconds = last_.seconds = since_.seconds();
    tell(saved_step_);
}

void Saver::poll(int64_t step) {
    if (writing_.valid() && writing_.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
        finish(step);
}

void Saver::finish(int64_t step) {
    if (!writing_.valid()) return;
    last_.seconds = last_.stall_seconds + writing_.get();
    tell(step);
}

void Saver::tell(int64_t step) {
    if (!report_.speaks() && !report_.metrics()) return;
    for (const FileRecord& file : read_manifest(last_.path).files) last_.bytes += file.bytes;
    report_.checkpoint(step, last_);
}

}  // namespace fomoe
