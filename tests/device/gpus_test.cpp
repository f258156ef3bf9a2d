// Which GPU each rank gets on made-up hosts, and what is said about it.
#include "device/gpus.h"

#include <catch2/catch.hpp>

#include "base/error.h"

using namespace fomoe;
using Catch::Matchers::Contains;
using Strings = std::vector<std::string>;

namespace {

// GPU `number` of a host; its place on the bus goes with the number.
Gpu gpu(int host, int number, int node = -1) {
    return {.identity = uint64_t(host * 100 + number),
            .address = uint64_t(0x10 * (number + 1)) << 8,
            .numa_node = node,
            .capability = 90};
}

// The GPUs of a host of two NUMA nodes, half on each.
std::vector<Gpu> two_nodes(int host, int gpus) {
    std::vector<Gpu> all;
    for (int i = 0; i < gpus; ++i) all.push_back(gpu(host, i, i < gpus / 2 ? 0 : 1));
    return all;
}

World::Group group(const std::string& name, int first_rank, int ranks, int expert_parallel = 1) {
    return {name, first_rank, ranks, expert_parallel};
}

// One group of ranks on hosts "a", "b", ... that see all of the host's GPUs; -1: bound to no node.
GpuJob job_of(std::vector<std::pair<char, int>> host_and_node, int gpus_a_host) {
    GpuJob job{.groups = {group("west", 0, int(host_and_node.size()))}, .ranks = {}};
    for (const auto& [host, node] : host_and_node)
        job.ranks.push_back({.host = std::string(1, host),
                             .numa_node = node,
                             .visible = two_nodes(host - 'a', gpus_a_host)});
    return job;
}

std::vector<int> chosen(const GpuJob& job) { return assign_gpus(job); }

std::string refusal(const GpuJob& job) {
    try {
        assign_gpus(job);
    } catch (const Error& error) {
        CHECK(error.exit == Exit::usage);
        return error.what();
    }
    return "";
}

}  // namespace

TEST_CASE("ranks of a host take its GPUs in order, on every host anew") {
    CHECK(chosen(job_of({{'a', -1}}, 1)) == std::vector{0});
    CHECK(chosen(job_of(std::vector(8, std::pair{'a', -1}), 8)) ==
          std::vector{0, 1, 2, 3, 4, 5, 6, 7});
    CHECK(chosen(job_of({{'a', -1}, {'a', -1}, {'b', -1}, {'b', -1}}, 2)) ==
          std::vector{0, 1, 0, 1});
    // Ranks dealt out to the hosts in turn.
    CHECK(chosen(job_of({{'b', -1}, {'a', -1}, {'b', -1}, {'a', -1}}, 2)) ==
          std::vector{0, 0, 1, 1});
}

TEST_CASE("the order is that of NUMA node and PCI address, however processes number GPUs") {
    GpuJob job{.groups = {group("west", 0, 3)}, .ranks = {}};
    job.ranks.push_back({"a", -1, {gpu(0, 2, 1), gpu(0, 1, 0), gpu(0, 0, 1)}});
    job.ranks.push_back({"a", -1, {gpu(0, 0, 1), gpu(0, 1, 0), gpu(0, 2, 1)}});
    job.ranks.push_back({"a", -1, {gpu(0, 2, 1), gpu(0, 0, 1), gpu(0, 1, 0)}});
    // GPU 1 of node 0, then 0 and 2 of node 1.
    CHECK(chosen(job) == std::vector{1, 0, 0});
}

TEST_CASE("a rank that is bound to a NUMA node gets a GPU of that node") {
    CHECK(chosen(job_of({{'a', 1}}, 8)) == std::vector{4});
    CHECK(chosen(job_of({{'a', 1}, {'a', 1}, {'a', 0}, {'a', 0}}, 4)) == std::vector{2, 3, 0, 1});
    std::vector<std::pair<char, int>> in_turn;
    for (int i = 0; i < 8; ++i) in_turn.emplace_back('a', i % 2);
    CHECK(chosen(job_of(in_turn, 8)) == std::vector{0, 4, 1, 5, 2, 6, 3, 7});
    // One that is bound to nothing leaves it alone.
    CHECK(chosen(job_of({{'a', -1}, {'a', 0}, {'a', 0}}, 4)) == std::vector{2, 0, 1});
}

TEST_CASE("where a node has too few GPUs for its ranks, the later ones go elsewhere") {
    const GpuJob job = job_of({{'a', 0}, {'a', 0}, {'a', 0}, {'a', 1}}, 4);
    const std::vector<int> found = chosen(job);
    CHECK(found == std::vector{0, 1, 2, 3});
    CHECK(gpu_warnings(job, found) ==
          Strings{"rank 2 is bound to cores of another NUMA node than that of the GPU"});
    CHECK(gpu_warnings(job, {1, 2, 3, 0}) ==
          Strings{"ranks 1, 2 and 3 are bound to cores of another NUMA node than that of the GPU"});
}

TEST_CASE("GPUs of unknown NUMA node suit every rank") {
    GpuJob job = job_of({{'a', 1}, {'a', 0}}, 2);
    for (GpuRank& rank : job.ranks)
        for (Gpu& each : rank.visible) each.numa_node = -1;
    CHECK(chosen(job) == std::vector{0, 1});
    CHECK(gpu_warnings(job, {0, 1}).empty());
}

TEST_CASE("ranks of a group stay on one NUMA node where it has room for them") {
    GpuJob job = job_of(std::vector(6, std::pair{'a', -1}), 8);
    job.groups = {group("west", 0, 3), group("east", 3, 3)};
    CHECK(chosen(job) == std::vector{0, 1, 2, 4, 5, 6});
    // None has room for five.
    job.groups = {group("west", 0, 1), group("east", 1, 5)};
    CHECK(chosen(job) == std::vector{0, 1, 2, 3, 4, 5});
    job = job_of(std::vector(8, std::pair{'a', -1}), 8);
    job.groups = {group("west", 0, 3), group("east", 3, 4), group("north", 7, 1)};
    CHECK(chosen(job) == std::vector{0, 1, 2, 4, 5, 6, 7, 3});
}

TEST_CASE("a rank that sees one GPU takes it, and others leave it to that rank") {
    GpuJob job = job_of({{'a', -1}, {'a', -1}, {'a', -1}}, 3);
    for (int rank = 0; rank < 3; ++rank) job.ranks[rank].visible = {gpu(0, 2 - rank)};
    CHECK(chosen(job) == std::vector{0, 0, 0});
    // Mixed: the first sees all three, the second only GPU 0, the third 0 and 1.
    job.ranks[0].visible = two_nodes(0, 3);
    job.ranks[1].visible = {gpu(0, 0, 0)};
    job.ranks[2].visible = {gpu(0, 0, 0), gpu(0, 1, 1)};
    CHECK(chosen(job) == std::vector{2, 0, 1});
    // A NUMA node is no reason to take what another rank needs.
    job.ranks[0].numa_node = 0;
    CHECK(chosen(job) == std::vector{2, 0, 1});
}

TEST_CASE("more ranks than GPUs are refused, each host by its name") {
    CHECK_THAT(refusal(job_of({{'a', -1}, {'a', -1}}, 1)),
               Contains("2 ranks on host a with 1 GPU; ") && Contains("a GPU of its own"));
    GpuJob job = job_of({{'a', -1}, {'a', -1}, {'b', -1}, {'b', -1}, {'b', -1}}, 2);
    CHECK_THAT(refusal(job), Contains("3 ranks on host b with 2 GPUs; ") && !Contains("host a"));
    job.ranks[0].visible = job.ranks[1].visible = {gpu(0, 0)};
    CHECK_THAT(refusal(job), Contains("2 ranks on host a with 1 GPU and 3 ranks on host b with 2"));
}

TEST_CASE("ranks that see the same GPU only are refused, although the host has enough") {
    GpuJob job = job_of({{'a', -1}, {'a', -1}, {'a', -1}, {'a', -1}}, 4);
    job.ranks[1].visible = job.ranks[3].visible = {gpu(0, 2, 1)};
    CHECK_THAT(refusal(job), Contains("ranks 1 and 3 on host a see only 1 GPU between them"));
    job.ranks[2].visible = job.ranks[1].visible = {gpu(0, 2, 1), gpu(0, 3, 1)};
    CHECK_THAT(refusal(job), Contains("ranks 1, 2 and 3 on host a see only 2 GPUs between them"));
}

TEST_CASE("expert parallelism over hosts is warned of once, with what would avoid it") {
    GpuJob job = job_of({{'a', -1}, {'a', -1}, {'b', -1}, {'b', -1}}, 2);
    const std::vector<int> found = chosen(job);
    CHECK(gpu_warnings(job, found).empty());
    job.groups[0].expert_parallel = 4;
    CHECK(gpu_warnings(job, found) == Strings{"group 'west': with expert_parallel 4 tokens travel "
                                              "between hosts (a and b); 2 would keep them on one"});
    job.groups[0].expert_parallel = 2;
    CHECK(gpu_warnings(job, found).empty());
    // A group that begins in the middle of a host.
    job.groups = {group("west", 0, 1), group("east", 1, 2, 2), group("north", 3, 1)};
    CHECK(gpu_warnings(job, found) == Strings{"group 'east': with expert_parallel 2 tokens travel "
                                              "between hosts (a and b); 1 would keep them on one"});
}

TEST_CASE("GPUs of different compute capability in one group are warned of") {
    GpuJob job = job_of({{'a', -1}, {'b', -1}}, 1);
    job.ranks[1].visible[0].capability = 80;
    CHECK_THAT(gpu_warnings(job, {0, 0}).at(0),
               Contains("group 'west' has GPUs of compute capability 8.0 and 9.0"));
    job.groups = {group("west", 0, 1), group("east", 1, 1)};
    CHECK(gpu_warnings(job, {0, 0}).empty());
}

TEST_CASE("the summary counts GPUs of a kind and hosts, the table names each rank's") {
    CHECK(gpu_summary(job_of({{'a', -1}}, 2), {"H100"}) == "H100");
    GpuJob job = job_of({{'a', -1}, {'a', -1}, {'b', -1}}, 2);
    CHECK(gpu_summary(job, {"H100", "H100", "H100"}) == "3 x H100 on 2 hosts");
    CHECK(gpu_summary(job, {"H100", "A100", "H100"}) == "2 x H100 and 1 x A100 on 2 hosts");
    job.groups = {group("west", 0, 1), group("east", 1, 2)};
    job.ranks[2].visible[0].numa_node = -1;
    CHECK(gpu_table(job, chosen(job)) ==
          Strings{"rank 0 (group west): host a, GPU 0000:10:00.0, NUMA node 0",
                  "rank 1 (group east): host a, GPU 0000:20:00.0, NUMA node 1",
                  "rank 2 (group east): host b, GPU 0000:10:00.0, NUMA node unknown"});
}
