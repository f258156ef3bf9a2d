// A whole run, whatever its phases.
#pragma once

#include "train/trainer.h"

namespace fomoe {

// The data of the config can be opened and has enough held-out sequences; the model that it starts
// from has all weights. Throws Error(data) that names file and key.
void check_data(const Config& config);
// The first `most` token ids of each file are below the vocabulary's size. What lies behind is
// checked when it is read.
void check_tokens(const Config& config, int64_t most);

struct RunEnd {
    Exit exit = Exit::done;
    int64_t steps_done = 0;  // by this process
    StepTimes times{};       // of them, but for calibration's
};

// From a checkpoint that is whole, as choose_checkpoint() says. One Trainer for each placement that
// the run's phases have; the next goes on from the checkpoint that the one before has written, when
// its memory is free; and one more for each time that a bad step leads back to a checkpoint. Then
// the calibration, if the config asks for one. `activity` says what this rank is at. Otherwise as
// Trainer and its run().
RunEnd train_run(const Config& config, RunPlan plan, Communicator& job, const RankDevice& device,
                 StopRequests& stop, Activity& activity);

}  // namespace fomoe
