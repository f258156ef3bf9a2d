#include "train/run.h"

#include "train/calibration.h"

namespace fomoe {

void check_data(const Config& config) {
    Loader(config, 0, Range{0, 0});
    const ValidLoader valid(config);
    if (!config.model.from_hf.empty()) SourceModel{config.model};
    if (Probe::wanted(config)) Probe(config, valid);
}

void check_tokens(const Config& config, int64_t most) {
    Loader(config, 0, Range{0, 0}).check_tokens(most);
    ValidLoader(config).check_tokens(most);
}

RunEnd train_run(const Config& config, RunPlan plan, Communicator& job, const RankDevice& device,
                 StopRequests& stop, Activity& activity) {
    choose_checkpoint(plan, job);
    RunHold hold{.stop = stop, .activity = activity};
    const CallLimits limits(config);
    RunEnd end;
    int64_t step = 0;
    while (step < config.train.steps) {
        activity.at("start", limits.other);
        Trainer trainer(config, plan, job, device, hold);
        end.exit = trainer.run();
        end.steps_done = hold.steps_done;
        end.times = hold.times;
        if (end.exit != Exit::done) return end;
        hold.rollback = trainer.rollback();
        if (hold.rollback) {
            plan.checkpoint = hold.rollback->checkpoint;
            continue;
        }
        step = trainer.last_step();
        if (step < config.train.steps) plan.checkpoint = plan.checkpoints() / step_directory(step);
    }
    if (config.calibration.steps == 0) return end;
    activity.at("calibration", limits.other);
    Calibration calibration(config, plan, job, device);
    end.exit = calibration.run(stop, hold.meetings);
    end.steps_done += config.calibration.steps;
    return end;
}

}  // namespace fomoe
