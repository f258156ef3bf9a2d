// Which NUMA node cores and PCI devices of this host belong to, as sysfs says. -1: unknown.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fomoe {

// Where a device sits on the PCI bus, as a number: domain << 16 | bus << 8 | device.
std::string pci_name(uint64_t address);  // 0000:3b:00.0

int numa_node_of_device(uint64_t address, const std::string& sysfs = "/sys");

// The node that all cores of the mask (by number of the core) belong to; -1 also for several.
int numa_node_of_cores(const std::vector<bool>& mask, const std::string& sysfs = "/sys");

}  // namespace fomoe
