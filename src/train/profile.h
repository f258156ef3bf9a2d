// Where the time of a step goes: the rows of a TraceBackend as a table.
#pragma once

#include <string>
#include <vector>

#include "ops/trace_backend.h"

namespace fomoe {

// One line an op, the longest time first: calls, milliseconds, share of the time, GFLOP/s and its
// share of the ceiling (GFLOP/s), GB/s of operands. `steps` divides calls and times.
std::string profile_table(const std::vector<TraceRow>& rows, double ceiling, int64_t steps);

}  // namespace fomoe
