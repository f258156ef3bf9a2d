// The timeline of a little program with two streams.
#include <nvtx3/nvToolsExt.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/counters.h"
#include "runtime/libraries.h"
#include "tests/emulated.h"
#include "tests/kernels.h"

using namespace cudaemu::test;
using Json = nlohmann::json;

namespace {

// What the runtime is asked for by `body`, line by line.
template <typename Body>
std::vector<Json> timeline_of(Body&& body) {
    const auto file =
        std::filesystem::temp_directory_path() / ("cudaemu_timeline." + std::to_string(getpid()));
    cudaemu_set_timeline(file.c_str());
    body();
    cudaemu_set_timeline(nullptr);
    std::vector<Json> lines;
    std::ifstream stream(file);
    for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
    std::filesystem::remove(file);
    return lines;
}

std::vector<std::string> deeds(const std::vector<Json>& lines) {
    std::vector<std::string> all;
    for (const Json& line : lines) all.push_back(line.at("do"));
    return all;
}

// Where the clocks of the line say how many operations of a stream come before it.
uint32_t before(const Json& line, const char* clock, uint32_t stream) {
    const Json& counts = line.at(clock);
    return stream < counts.size() ? counts[stream].get<uint32_t>() : 0;
}

TEST_CASE("the timeline has every call in order, with what comes before it", "[cuda]") {
    cudaStream_t compute = nullptr, comm = nullptr;
    cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&comm, cudaStreamNonBlocking);
    cudaEvent_t event = nullptr;
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    std::vector<float> host(64);
    void* memory = nullptr;
    const std::vector<Json> lines = timeline_of([&] {
        cudaMalloc(&memory, 256);
        float* const x = static_cast<float*>(memory);
        cudaMemsetAsync(x, 0, 256, compute);
        runtime_kernels::add(x, 64, 1.0f, compute);
        cudaEventRecord(event, compute);
        cudaStreamWaitEvent(comm, event, 0);
        cudaemu_describe(cudaemu_transfer, "all_gather", 4096, 0);
        cudaLaunchHostFunc(
            comm, [](void*) {}, nullptr);
        cudaLaunchHostFunc(
            compute, [](void*) {}, nullptr);
        cudaMemcpyAsync(host.data(), x, 256, cudaMemcpyDeviceToHost, comm);
        cudaStreamSynchronize(comm);
        cudaMemsetAsync(x, 0, 128, compute);
        cudaEventQuery(event);
        cudaFree(x);
    });
    REQUIRE(deeds(lines) == std::vector<std::string>{"allocate", "fill", "launch", "record",
                                                     "stream wait", "transfer", "host function",
                                                     "copy", "host wait", "fill", "host asks",
                                                     "host wait", "free"});
    const Json &launch = lines[2], &record = lines[3], &wait = lines[4], &transfer = lines[5];
    const uint32_t c = launch.at("stream"), m = transfer.at("stream");
    CHECK(c != m);
    CHECK(lines[0].at("name") == "device");
    CHECK(lines[0].at("bytes") == 256);
    CHECK(lines[1].at("bytes") == 256);
    CHECK(launch.at("name").get<std::string>().find("add") != std::string::npos);
    CHECK(launch.at("grid").size() == 3);
    CHECK(launch.at("block")[0].get<int>() > 0);
    CHECK(launch.at("number").get<int>() == lines[1].at("number").get<int>() + 1);
    CHECK(wait.at("stream") == m);
    CHECK(wait.at("event") == record.at("event"));
    CHECK(wait.at("for") == Json{c, record.at("number")});
    CHECK(transfer.at("name") == "all_gather");
    CHECK(transfer.at("bytes") == 4096);
    // The transfer waits for the record, the host function beside it for nothing of its stream.
    CHECK(before(transfer, "before", c) == record.at("number"));
    CHECK(lines[6].at("name") == "host function");
    CHECK(before(lines[6], "before", m) == 0);
    CHECK(lines[7].at("name") == "copy to the host");
    CHECK(lines[8].at("name") == "cudaStreamSynchronize");
    CHECK(before(lines[8], "until", m) == lines[7].at("number"));
    CHECK(before(lines[8], "until", c) == record.at("number"));
    // What the host has waited for comes before all that it issues then.
    CHECK(before(lines[9], "before", m) == lines[7].at("number"));
    CHECK(lines[10].at("done") == true);
    CHECK(lines[11].at("name") == "cudaFree");
    cudaEventDestroy(event);
    cudaStreamDestroy(comm);
    cudaStreamDestroy(compute);
}

TEST_CASE("ranges of NVTX name the ops of the timeline", "[.][nvtx_ranges]") {
    const std::vector<Json> lines = timeline_of([] {
        nvtxRangePushA("outer");
        runtime_kernels::bounded(1);
        nvtxRangePushA("in\"ner");
        runtime_kernels::bounded(1);
        nvtxRangePop();
        runtime_kernels::bounded(1);
        nvtxRangePop();
        runtime_kernels::bounded(1);
    });
    REQUIRE(lines.size() == 4);
    CHECK(lines[0].at("op") == "outer");
    CHECK(lines[1].at("op") == "in\"ner");
    CHECK(lines[2].at("call") == lines[0].at("call"));
    CHECK(lines[2].at("call") != lines[1].at("call"));
    CHECK_FALSE(lines[3].contains("op"));
}

TEST_CASE("a graph's work is in the timeline whenever it is launched", "[cuda]") {
    cudaStream_t stream = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    const OnDevice<float> x(std::vector<float>(64));
    const std::vector<Json> lines = timeline_of([&] {
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t exec = nullptr;
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        cudaMemsetAsync(x.get(), 0, 256, stream);
        runtime_kernels::add(x.get(), 64, 1.0f, stream);
        cudaStreamEndCapture(stream, &graph);
        cudaGraphInstantiate(&exec, graph, 0);
        cudaGraphLaunch(exec, stream);
        cudaGraphLaunch(exec, stream);
        cudaGraphExecDestroy(exec);
        cudaGraphDestroy(graph);
    });
    REQUIRE(deeds(lines) ==
            std::vector<std::string>{"graph", "fill", "launch", "graph", "fill", "launch"});
    CHECK(lines[0].at("nodes") == 2);
    CHECK(lines[2].at("grid") == lines[5].at("grid"));
    CHECK(lines[5].at("number").get<int>() == lines[2].at("number").get<int>() + 2);
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
}

// NVTX looks for its library at its first call, so this is a process of its own.
TEST_CASE("NVTX finds the runtime through its environment variable", "[cuda]") {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    const std::string command =
        "NVTX_INJECTION64_PATH=" CUDAEMU_LIBRARY " " + self + " '[nvtx_ranges]' > /dev/null";
    CHECK(std::system(command.c_str()) == 0);
}

TEST_CASE("a process writes its timeline to a file of its rank", "[.][one_launch]") {
    runtime_kernels::bounded(1);
    cudaDeviceSynchronize();
}

TEST_CASE("the environment names the file of the timeline", "[cuda]") {
    const auto file = std::filesystem::temp_directory_path() /
                      ("cudaemu_timeline_env." + std::to_string(getpid()));
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    const std::string command = "CUDAEMU_TIMELINE=" + file.string() + " OMPI_COMM_WORLD_RANK=3 " +
                                self + " '[one_launch]' > /dev/null";
    REQUIRE(std::system(command.c_str()) == 0);
    std::ifstream stream(file.string() + ".3");
    std::string line;
    REQUIRE(std::getline(stream, line));
    CHECK(Json::parse(line).at("do") == "launch");
    REQUIRE(std::getline(stream, line));
    CHECK(Json::parse(line).at("name") == "cudaDeviceSynchronize");
    std::filesystem::remove(file.string() + ".3");
}

}  // namespace
