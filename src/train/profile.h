// Where the time of a step goes: the rows of a TraceBackend as a table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/matmul_ceiling.h"
#include "ops/trace_backend.h"

namespace fomoe {

// Seconds of one rank's steps.
struct StepTimes {
    double all = 0;
    double data = 0;  // of these, until the batch was there
    StepTimes& operator+=(const StepTimes& other) {
        all += other.all;
        data += other.data;
        return *this;
    }
};

// "wait for data: 0.012 ms a step, 0.004 % of its time". `steps` divides.
std::string data_wait_line(const StepTimes& times, int64_t steps);

// One line an op: calls, milliseconds, share of the time; GFLOP/s, GB/s of its operands; how much
// of its time it would take at the nearer of the two ceilings, and the milliseconds that it takes
// beyond that: the op that loses most comes first. `steps` divides calls and times, if there are
// any.
std::string profile_table(const std::vector<TraceRow>& rows, const Ceilings& ceilings,
                          int64_t steps);

}  // namespace fomoe
