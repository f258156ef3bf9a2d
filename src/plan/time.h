// How long steps and rounds would take, from sizes and assumed rates: estimates, nothing measured.
#pragma once

#include <string>
#include <vector>

#include "plan/traffic.h"

namespace fomoe {

// Of what one rank computes on. The rates of GPUs are those of tools/estimate.py.
struct DeviceRates {
    std::string name;
    double tensor = 0;  // FLOP/s of dense matmuls in bf16
    double mma = 1;     // the share of it that experts and attention reach
    double f32 = 0;     // FLOP/s in f32
    double memory = 0;  // bytes/s
    double link = 0;    // bytes/s to other ranks of the group, one direction
    int64_t bytes = 0;  // of memory, those that the driver and libraries take left out; 0: unknown
};
// h100, h200, a100, or cpu: so many cores of the host are shared by the ranks on it. Throws
// Error(usage) for another name.
DeviceRates device_rates(const std::string& name, int cores, int ranks_on_host);

// Bytes a second: of a rank to others of its group, and of a group to others; one direction.
struct Bandwidth {
    double intra = 0, inter = 0;
};
// Where the command line does not say: the device's link inside a node of 8, a 400 Gbit/s adapter
// for each rank in larger groups; 10 Gbit/s between groups.
Bandwidth assumed_bandwidth(const DeviceRates& device, int ranks);

struct StepTime {
    double compute = 0;  // seconds: the longer of arithmetic and memory traffic, part by part
    double inside = 0;   // of messages inside the group
    double in_turn() const { return compute + inside; }
    double overlapped() const { return compute > inside ? compute : inside; }
};
// Of a rank. `choices`: that are executed for a token, over all layers.
StepTime step_time(const Config& config, const World& world, const ArenaLayout& layout,
                   const FrozenLayout* frozen, double choices, int64_t activation_bytes,
                   const StepTraffic& traffic, const DeviceRates& device, double intra);

// What the matmuls of this dtype could reach at most.
double peak_flops(const TrainConfig& train, const DeviceRates& device);

}  // namespace fomoe
