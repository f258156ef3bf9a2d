// Which GPU each rank of a job takes, and what the log says about it. Pure functions of what the
// ranks have told each other, so that every rank finds the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "topology/world.h"

namespace fomoe {

struct Gpu {
    uint64_t identity = 0;  // the same for the same GPU in every process
    uint64_t address = 0;   // on the PCI bus; see pci_name
    int32_t numa_node = -1;
    int32_t capability = 0;  // 90: compute capability 9.0
};

// A rank and the GPUs that its process sees, in its order.
struct GpuRank {
    std::string host;
    int numa_node = -1;  // of all its cores; -1: several, or unknown
    std::vector<Gpu> visible{};
};

// Groups take consecutive ranks.
struct GpuJob {
    std::vector<World::Group> groups;
    std::vector<GpuRank> ranks;
};

// Of each rank, the index of its GPU among those that it sees. Ranks of a host take its GPUs in the
// order of NUMA node and PCI address. As many as can, in rank order, get one of the node that they
// are bound to; beside that, ranks of a group go to one node where it has room for them. Throws
// Error(usage) where two ranks would need the same GPU.
std::vector<int> assign_gpus(const GpuJob& job);

// "8 x NAME on 2 hosts", from what each rank says of its GPU.
std::string gpu_summary(const GpuJob& job, const std::vector<std::string>& names);

// A line for each rank: its group, host, GPU and NUMA node.
std::vector<std::string> gpu_table(const GpuJob& job, const std::vector<int>& chosen);

// What slows a run down, or makes ranks of a group unequal.
std::vector<std::string> gpu_warnings(const GpuJob& job, const std::vector<int>& chosen);

}  // namespace fomoe
