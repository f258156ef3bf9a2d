// NUMA nodes as a made-up sysfs says them.
#include "device/numa.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "support/temporary_directory.h"

using namespace fomoe;

namespace {

void write(const std::filesystem::path& file, const std::string& text) {
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
}

std::vector<bool> cores(std::initializer_list<int> which) {
    std::vector<bool> mask(4096);
    for (int core : which) mask[core] = true;
    return mask;
}

}  // namespace

TEST_CASE("a PCI address is written as sysfs writes it") {
    CHECK(pci_name(0x3b00) == "0000:3b:00.0");
    CHECK(pci_name(uint64_t{0x10001} << 16 | 0xca1f) == "10001:ca:1f.0");
}

TEST_CASE("the NUMA node of a device, unknown where sysfs has none") {
    TemporaryDirectory sysfs;
    const std::filesystem::path devices = sysfs / "bus/pci/devices";
    write(devices / "0000:3b:00.0/numa_node", "1\n");
    write(devices / "0000:5e:00.0/numa_node", "-1\n");
    CHECK(numa_node_of_device(0x3b00, sysfs.path()) == 1);
    CHECK(numa_node_of_device(0x5e00, sysfs.path()) == -1);
    CHECK(numa_node_of_device(0x9900, sysfs.path()) == -1);
}

TEST_CASE("the NUMA node that has all cores of a mask") {
    TemporaryDirectory sysfs;
    const std::filesystem::path nodes = sysfs / "devices/system/node";
    write(nodes / "online", "0-2\n");
    write(nodes / "node0/cpulist", "0-3,8-11\n");
    write(nodes / "node1/cpulist", "4-7,12,14-15\n");
    write(nodes / "node2/cpulist", "\n");  // memory only
    const auto node = [&](std::initializer_list<int> which) {
        return numa_node_of_cores(cores(which), sysfs.path());
    };
    CHECK(node({0, 3, 11}) == 0);
    CHECK(node({12}) == 1);
    CHECK(node({4, 15}) == 1);
    CHECK(node({3, 4}) == -1);
    CHECK(node({13}) == -1);
    CHECK(node({}) == -1);
    CHECK(numa_node_of_cores(cores({0}), sysfs / "none") == -1);
}
