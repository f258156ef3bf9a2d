// A whole run, whatever its phases.
#pragma once

#include "train/trainer.h"

namespace fomoe {

struct RunEnd {
    Exit exit = Exit::done;
    int64_t steps_done = 0;  // by this process
};

// One Trainer for each placement that the run's phases have; the next goes on from the checkpoint
// that the one before has written, when its memory is free. Then the calibration, if the config
// asks for one. Otherwise as Trainer and its run().
RunEnd train_run(const Config& config, RunPlan plan, Communicator& job, const RankDevice& device,
                 const std::function<bool()>& stop_requested);

}  // namespace fomoe
