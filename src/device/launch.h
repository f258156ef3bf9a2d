// Starting the ranks of a job from a program that was started alone.
#pragma once

#include <string>
#include <vector>

namespace fomoe {

// Whether mpirun or srun started this process, so that it is one rank of a job.
bool started_by_launcher();

// Runs this program again with these arguments (without argv[0]) under mpirun on this host and
// waits for it. The first SIGUSR1, SIGTERM, SIGINT or SIGHUP reaches every rank as SIGUSR1, since
// mpirun would kill the ranks two seconds after a SIGTERM of its own: that is what the same signal
// becomes when it comes again and is no duplicate. Returns the exit code of the job, 128 + signal
// for a rank that a signal ended. Throws Error(usage) when there is no mpirun. Call it before the
// process has threads.
int run_under_mpirun(int ranks, const std::vector<std::string>& arguments);

}  // namespace fomoe
