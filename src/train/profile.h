// Where the time of a step goes: the rows of a TraceBackend as a table.
#pragma once

#include <string>
#include <vector>

#include "ops/matmul_ceiling.h"
#include "ops/trace_backend.h"

namespace fomoe {

// One line an op: calls, milliseconds, share of the time; GFLOP/s, GB/s of its operands; how much
// of its time it would take at the nearer of the two ceilings, and the milliseconds that it takes
// beyond that: the op that loses most comes first. `steps` divides calls and times.
std::string profile_table(const std::vector<TraceRow>& rows, const Ceilings& ceilings,
                          int64_t steps);

}  // namespace fomoe
