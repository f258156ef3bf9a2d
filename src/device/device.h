// What a rank computes with: its backend, and how many threads of its host are its own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "ops/backend.h"
#include "topology/world.h"

namespace fomoe {

// The cores that a rank may run on, and the host they are on.
struct RankCores {
    uint64_t host = 0;       // hash of the host's name
    std::vector<bool> mask;  // by number of the core
};

// Cores of a rank when ranks of one host that may run on the same core share it evenly.
double share_of_cores(const std::vector<RankCores>& ranks, int rank);

// The threads of this rank: OMP_NUM_THREADS if it is set, else its share of the cores in its
// affinity mask, at least 1; at most OMP_THREAD_LIMIT. Collective over the job.
struct Threads {
    int count = 1;
    double cores = 1;    // its share of them
    int host_ranks = 1;  // ranks of the job on this host
    int host_rank = 0;   // this one's index among them
    uint64_t host = 0;   // hash of its name
    int numa_node = -1;  // that all cores of the mask belong to; -1: several, or unknown
    std::string reason;  // for the log

    // Of its time, how much of a core a thread has where the ranks of this job alone work.
    double share_of_core() const { return cores < count ? cores / count : 1; }
};
Threads threads_per_rank(Communicator& job);

enum class BackendChoice { automatic, cpu, cuda };
BackendChoice backend_choice(std::string_view name);  // "auto", "cpu", "cuda"; else Error(usage)

struct DeviceRequest {
    BackendChoice choice = BackendChoice::automatic;
    bool tf32 = false;                   // train.tf32
    bool graphs = true;                  // train.cuda_graphs
    double collective_timeout = 600;     // train.collective_timeout, seconds
    std::vector<World::Group> groups{};  // of the job; empty: all its ranks are one
};

// Makes the communicator of the same ranks for tensors of the backend; the argument and the backend
// outlive it. Empty where the host can read what the backend allocates, so that the argument
// serves. Collective.
using Connect = std::function<std::unique_ptr<Communicator>(Communicator& host)>;

// The backend, and one line that says what was chosen and why, on every rank the same. Then what
// may slow the run down, and for GPUs a line about each rank.
struct Device {
    std::unique_ptr<Backend> backend;
    std::string description;
    Connect connect{};
    std::vector<std::string> warnings{};
    std::vector<std::string> table{};
};

// What a rank works with.
struct RankDevice {
    Backend& backend;
    Connect connect{};
    Threads threads{};
};

// Every rank gets a GPU of its own, as gpus.h says. Collective over the job: all ranks compute on
// the same kind of device. `automatic` takes the CPU where GPUs cannot be had; `cuda` throws on
// every rank: Error(usage) where ranks would have to share a GPU, and Error(internal) without
// plugin, driver or usable device.
Device make_device(const DeviceRequest& request, const Threads& threads, Communicator& job);

}  // namespace fomoe
