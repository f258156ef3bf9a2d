// From which checkpoint a run goes on, and what is said about it.
#pragma once

#include <string_view>

#include "checkpoint/load.h"
#include "comm/communicator.h"
#include "train/run_directory.h"

namespace fomoe {

// Collective over the job, which shares the reading. Every file of the plan's checkpoint must be as
// it was written. With --resume auto the next older one takes the place of one that is not, with a
// warning that names the file. Throws Error(data) when none is whole.
void choose_checkpoint(RunPlan& plan, Communicator& job);

// Renames the checkpoints that were not whole, so that nothing takes them for good ones again. For
// one rank, which holds the lock of the run.
void set_damaged_aside(const RunPlan& plan);

// In the log: from where, what is lost, and why the bits are not those of a run that never stopped.
void say_what_is_resumed(const Checkpoint& checkpoint, const ResumePoint& point,
                         const Config& config, int threads_per_rank, std::string_view backend);

}  // namespace fomoe
