// Where the time of a step goes: the rows of a TraceBackend as a table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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

// One line an op, the longest time first: calls, milliseconds, share of the time, GFLOP/s and its
// share of the ceiling (GFLOP/s), GB/s of operands. `steps` divides calls and times.
std::string profile_table(const std::vector<TraceRow>& rows, double ceiling, int64_t steps);

}  // namespace fomoe
