#include "train/run.h"

namespace fomoe {

RunEnd train_run(const Config& config, RunPlan plan, Communicator& job, Backend& backend,
                 const Threads& threads) {
    RunHold hold;
    RunEnd end;
    while (true) {
        Trainer trainer(config, plan, job, backend, threads, hold);
        end.exit = trainer.run();
        end.steps_done += trainer.steps_done();
        if (end.exit != Exit::done || trainer.last_step() == config.train.steps) return end;
        plan.checkpoint = plan.checkpoints() / step_directory(trainer.last_step());
    }
}

}  // namespace fomoe
