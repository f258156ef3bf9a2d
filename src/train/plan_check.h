// A run that has ended against what was planned for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "plan/traffic.h"

namespace fomoe {

struct RankMemory {
    int64_t planned = 0;  // MemoryPlan::total; 0: not of the memory that is measured
    int64_t peak = 0;     // above what the process held before it took what is planned
};
// By rank. Collective.
std::vector<RankMemory> memory_of_ranks(Communicator& job, const RankMemory& own);

// "memory of rank 0: 245.1 MiB at most above the start, 1.05 of the plan; all ranks 1.02 to 1.06"
std::string measured_memory_line(const std::vector<RankMemory>& ranks);
// Between groups, over all of them: what was sent until this step, and what was planned.
std::string traffic_line(const Config& config, int64_t step, const TrafficBytes& sent);

}  // namespace fomoe
