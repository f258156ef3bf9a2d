#include "device/numa.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace fomoe {
namespace {

namespace fs = std::filesystem;

// Whether the list, such as 0-3,8,10-11, has every core of the mask.
bool has_all(std::istream& list, std::vector<bool> mask) {
    for (size_t first; list >> first;) {
        size_t last = first;
        if (list.peek() == '-') list.ignore() >> last;
        for (size_t core = first; core <= last && core < mask.size(); ++core) mask[core] = false;
        if (list.peek() == ',') list.ignore();
    }
    return std::ranges::find(mask, true) == mask.end();
}

}  // namespace

std::string pci_name(uint64_t address) {
    char text[32];
    std::snprintf(text, sizeof text, "%04x:%02x:%02x.0", static_cast<unsigned>(address >> 16),
                  static_cast<unsigned>(address >> 8 & 0xff),
                  static_cast<unsigned>(address & 0xff));
    return text;
}

int numa_node_of_device(uint64_t address, const std::string& sysfs) {
    int node = -1;
    std::ifstream file(fs::path(sysfs) / "bus/pci/devices" / pci_name(address) / "numa_node");
    return file >> node ? node : -1;
}

int numa_node_of_cores(const std::vector<bool>& mask, const std::string& sysfs) {
    if (std::ranges::find(mask, true) == mask.end()) return -1;
    std::error_code unreadable;
    for (const auto& entry :
         fs::directory_iterator(fs::path(sysfs) / "devices/system/node", unreadable)) {
        int node = -1;
        if (std::sscanf(entry.path().filename().c_str(), "node%d", &node) != 1) continue;
        std::ifstream list(entry.path() / "cpulist");
        if (list && has_all(list, mask)) return node;
    }
    return -1;
}

}  // namespace fomoe
