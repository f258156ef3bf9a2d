// What the programs share: the one catch, and the exit code that it turns an error into.
#pragma once

#include <functional>

#include "comm/communicator.h"
#include "comm/watchdog.h"

namespace fomoe {

// Runs the body outside of any job of ranks; prints an Error on stderr and returns its exit code.
int run_alone(const std::function<int()>& body);

// Starts MPI and runs the body on every rank. `prepare` comes first (config, command line, data)
// and sends nothing; no body starts before it is over on all ranks. When it throws, the first rank
// where it did prints the error and all ranks end in order. An error inside `body` may be one
// rank's alone: it is printed, and the whole job ends with its code. So it does, with
// Exit::communication, when the watchdog of a rank finds that a call does not come back.
int run_ranks_of_job(const std::function<void(Communicator& job)>& prepare,
                     const std::function<int(Communicator& job, Watchdog& watchdog)>& body);

}  // namespace fomoe
